"""The `batch_aggregator` step: makes one value of a list, without a model."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jmespath

from app.catalog.conditions import modern
from app.runtime.errors import FlowError


def aggregate(how: Mapping[str, Any], items: Any) -> Any:
    """`how` is the step's `aggregation`. Raises `FlowError` where the items are no list."""
    if not isinstance(items, list):
        raise FlowError("What is mapped to 'items' is not a list.")
    strategy = how["strategy"]
    if strategy == "concat":
        return how.get("separator", "\n").join(map(_text, items))
    if strategy == "stats":
        return {name: _stats([_of(item, name) for item in items]) for name in how["fields"]}
    if strategy == "filter":
        condition = modern(how["condition"])
        return [item for item in items if holds(condition, item)]
    if strategy == "group":
        return _grouped(items, how["group_by"])
    return [{name: _of(item, name) for name in how["summary_fields"]} for item in items]


def holds(condition: str, value: Any) -> bool:
    """A JMESPath expression over one value, by JMESPath's idea of truth. Raises `FlowError` where it is wrong."""
    try:
        return bool(jmespath.search(condition, value))
    except Exception as error:  # jmespath's own, and what Python says of values that do not go together
        raise FlowError(f"The condition {condition!r} can not be evaluated: {error}") from None


def _text(item: Any) -> str:
    """Text as it is, anything else as JSON."""
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def _of(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else None


def _stats(values: Sequence[Any]) -> dict[str, Any]:
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if not numbers:
        return {"count": 0, "sum": 0, "mean": None, "min": None, "max": None}
    return {
        "count": len(numbers),
        "sum": sum(numbers),
        "mean": statistics.fmean(numbers),
        "min": min(numbers),
        "max": max(numbers),
    }


def _grouped(items: Sequence[Any], name: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        key = _of(item, name)
        groups.setdefault(key if isinstance(key, str) else json.dumps(key, ensure_ascii=False), []).append(item)
    return groups
