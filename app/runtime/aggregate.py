"""The `batch_aggregator` step: makes one value of a list, without a model."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from app.runtime.errors import FlowError

_OLD_STYLE = re.compile(r"\bitem\.")
_NUMBER = re.compile(r"(?<=[<>=!])\s*(-?\d+(?:\.\d+)?|true|false|null)\b")


def aggregate(how: Mapping[str, Any], items: Any) -> Any:
    """`how` is the step's `aggregation`. Raises `FlowError` where the items are no list."""
    if not isinstance(items, list):
        raise FlowError("What is mapped to 'items' is not a list.")
    strategy = how["strategy"]
    if strategy == "concat":
        return how.get("separator", "\n").join(item if isinstance(item, str) else str(item) for item in items)
    if strategy == "stats":
        return {name: _stats([_of(item, name) for item in items]) for name in how["fields"]}
    if strategy == "filter":
        condition = how["condition"]
        modern = _modern(condition) if _OLD_STYLE.search(condition) else condition
        return [item for item in items if holds(modern, item)]
    if strategy == "group":
        return _grouped(items, how["group_by"])
    return [{name: _of(item, name) for name in how["summary_fields"]} for item in items]


def holds(condition: str, value: Any) -> bool:
    """A JMESPath expression over one value, by JMESPath's idea of truth. Raises `FlowError` where it is wrong."""
    try:
        return bool(jmespath.search(condition, value))
    except JMESPathError as error:
        raise FlowError(f"The condition {condition!r} can not be evaluated: {error}") from None


def _modern(expression: str) -> str:
    """`item.price > 1` and `item.kind == "a"` in JMESPath's spelling."""
    return _NUMBER.sub(r" `\1`", _OLD_STYLE.sub("", expression)).replace('"', "'")


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
        groups.setdefault(str(_of(item, name)), []).append(item)
    return groups
