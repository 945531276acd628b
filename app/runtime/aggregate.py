"""The `batch_aggregator` step: makes one value of a list, without a model.

One odd item among a thousand costs that item, and a warning, not the pipeline.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jmespath

from app.catalog.conditions import modern
from app.masking import mask
from app.runtime.errors import FlowError

MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Aggregated:
    """What became of the items, and what had to be left out of it, as sentences for people."""

    value: Any
    warnings: tuple[str, ...] = ()


def aggregate(how: Mapping[str, Any], items: Any) -> Aggregated:
    """`how` is the step's `aggregation`. Raises `FlowError` if the items are no list.

    They are null if the step that makes them was skipped, or failed and may: then there are none.
    """
    if items is None:
        nothing = _STRATEGIES[how["strategy"]](how, [])
        return Aggregated(nothing.value, ("'items' is null: it was taken as an empty list.",))
    if not isinstance(items, list):
        raise FlowError("What is mapped to 'items' is not a list.")
    return _STRATEGIES[how["strategy"]](how, items)


def holds(condition: str, value: Any) -> bool:
    """Whether a JMESPath expression gives something for one value: not null, false, 0 or empty.

    Raises `FlowError` if it cannot be evaluated for that value.
    """
    try:
        return bool(jmespath.search(condition, value))
    except Exception as error:  # jmespath's own, and Python's of values that do not go together
        reason = mask(str(error))[:MAX_REASON_CHARACTERS]
        raise FlowError(f"The condition {condition!r} cannot be evaluated: {reason}") from None


def _concat(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    texts = [_text(item) for item in items if item is not None]
    null = _count(items, lambda item: item is None, "is null, and was left out.")
    return Aggregated(how.get("separator", "\n").join(texts), null)


def _filter(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    condition, kept, reasons = modern(how["condition"]), [], []
    for number, item in enumerate(items):
        try:
            if holds(condition, item):
                kept.append(item)
        except FlowError as error:
            reasons.append(f"Item {number} counts as false: {error}")
    more = f" So do {len(reasons) - 1} more of {len(items)} items." if len(reasons) > 1 else ""
    return Aggregated(kept, (reasons[0] + more,) if reasons else ())


def _stats(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    found = {name: _numbers(name, [_of(item, name) for item in items]) for name in how["fields"]}
    warnings = (warning for numbers in found.values() for warning in numbers.warnings)
    values = {name: numbers.value for name, numbers in found.items()}
    return Aggregated(values, (*_no_objects(items), *warnings))


def _group(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    groups: dict[str, list[Any]] = {}
    texts: set[str] = set()
    others: set[str] = set()
    for item in items:
        value = _of(item, how["group_by"])
        key = _text(value)
        (texts if isinstance(value, str) else others).add(key)
        groups.setdefault(key, []).append(item)
    mixed = (
        f"The group {key!r} holds items with that text and items with that value."
        for key in sorted(texts & others)
    )
    return Aggregated(groups, (*_no_objects(items), *mixed))


def _summary(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    rows = [{name: _of(item, name) for name in how["summary_fields"]} for item in items]
    return Aggregated(rows, _no_objects(items))


_STRATEGIES: dict[str, Callable[[Mapping[str, Any], Sequence[Any]], Aggregated]] = {
    "concat": _concat,
    "filter": _filter,
    "stats": _stats,
    "group": _group,
    "summary": _summary,
}


def _text(item: Any) -> str:
    """Text as it is, anything else as JSON; equal objects give the same."""
    if isinstance(item, str):
        return item
    return json.dumps(item, ensure_ascii=False, sort_keys=isinstance(item, dict))


def _of(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else None


def _no_objects(items: Sequence[Any]) -> tuple[str, ...]:
    return _count(
        items, lambda item: not isinstance(item, Mapping), "is no object, so its fields are null."
    )


def _count(values: Sequence[Any], odd: Callable[[Any], bool], what: str) -> tuple[str, ...]:
    """One sentence about the odd ones among the values; none if there are none."""
    numbers = [number for number, value in enumerate(values) if odd(value)]
    if not numbers:
        return ()
    more = f" So it is with {len(numbers) - 1} more of {len(values)} items."
    return (f"Item {numbers[0]} {what}{more if len(numbers) > 1 else ''}",)


def _numbers(name: str, values: Sequence[Any]) -> Aggregated:
    """The figures of one field. A value that is missing or null is no odd one."""
    numbers = [value for value in values if _is_number(value)]
    odd = _count(
        values,
        lambda value: value is not None and not _is_number(value),
        f"has no usable number as {name!r}, and was left out.",
    )
    if not numbers:
        return Aggregated({"count": 0, "sum": 0, "mean": None, "min": None, "max": None}, odd)
    total = _finite_sum(numbers)
    too_large = () if total is not None else (f"The sum of {name!r} is too large for a number.",)
    figures = {
        "count": len(numbers),
        "sum": total,
        "mean": _mean(numbers),
        "min": min(numbers),
        "max": max(numbers),
    }
    return Aggregated(figures, (*odd, *too_large))


def _is_number(value: Any) -> bool:
    """A boolean is no number, nor is one that other languages cannot hold (they use doubles)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _finite_sum(numbers: Iterable[float]) -> float | None:
    try:
        total = sum(numbers)
    except OverflowError:
        return None
    return total if _is_number(total) else None


def _mean(numbers: Sequence[float]) -> float:
    try:
        return math.fsum(numbers) / len(numbers)
    except OverflowError:  # the sum is too large; the mean cannot be
        return float(sum(map(Fraction, numbers)) / len(numbers))
