"""Makes one value of a list of items: the `batch_aggregator` step of a pipeline. Calls no model.

`steps.py` calls `aggregate`; `pipeline.py` calls `holds` for the `when` of any step. An item that
does not fit is left out with a warning, because one odd item among thousands should not fail a
pipeline.
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
from app.runtime.errors import FlowError
from app.telemetry.masking import mask

MAX_REASON_CHARACTERS = 300
"""The most characters of an error in a warning: jmespath's messages quote values of any size."""


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The value that was made of the items, and a sentence about each kind of item left out."""

    value: Any
    warnings: tuple[str, ...] = ()


def aggregate(how: Mapping[str, Any], items: Any) -> Aggregated:
    """Applies the strategy of `how`, the step's `aggregation`. Null counts as an empty list.

    Raises `FlowError` for anything else that is not a list.
    """
    strategy = _STRATEGIES[how["strategy"]]
    if items is None:
        # The step that makes the items was skipped, or it failed and is not required.
        empty = strategy(how, [])
        return Aggregated(empty.value, ("'items' is null and was treated as an empty list.",))
    if not isinstance(items, list):
        raise FlowError("The value mapped to 'items' is not a list. Map a list to it.")
    return strategy(how, items)


def holds(condition: str, value: Any) -> bool:
    """Whether a JMESPath expression is true of a value: not null, false, 0 or empty.

    Raises `FlowError` if it cannot be evaluated for that value.
    """
    try:
        return bool(jmespath.search(condition, value))
    # jmespath raises errors of its own and, for values of unequal types, Python's.
    except Exception as error:
        reason = mask(str(error))[:MAX_REASON_CHARACTERS].rstrip(".")
        raise FlowError(f"The condition {condition!r} cannot be evaluated: {reason}.") from None


def _concat(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    texts = [_text(item) for item in items if item is not None]
    warnings = _count(items, lambda item: item is None, "is null and was left out.")
    return Aggregated(how.get("separator", "\n").join(texts), warnings)


def _filter(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    condition = modern(how["condition"])
    kept: list[Any] = []
    reasons: list[str] = []
    for number, item in enumerate(items):
        try:
            if holds(condition, item):
                kept.append(item)
        except FlowError as error:
            reasons.append(f"Item {number} counts as false: {error}")
    if not reasons:
        return Aggregated(kept)
    return Aggregated(kept, (reasons[0] + _and_more(len(reasons), len(items)),))


def _stats(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    figures = {
        name: _figures(name, [_field(item, name) for item in items]) for name in how["fields"]
    }
    warnings = (warning for figure in figures.values() for warning in figure.warnings)
    values = {name: figure.value for name, figure in figures.items()}
    return Aggregated(values, (*_about_no_objects(items), *warnings))


def _group(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    groups: dict[str, list[Any]] = {}
    # The keys of an object are text, so the number 1 and the text "1" share a group: worth a
    # warning.
    texts: set[str] = set()
    others: set[str] = set()
    for item in items:
        value = _field(item, how["group_by"])
        key = _text(value)
        (texts if isinstance(value, str) else others).add(key)
        groups.setdefault(key, []).append(item)
    mixed = (
        f"The group {key!r} mixes items that have this text with items that have this value."
        for key in sorted(texts & others)
    )
    return Aggregated(groups, (*_about_no_objects(items), *mixed))


def _summary(how: Mapping[str, Any], items: Sequence[Any]) -> Aggregated:
    rows = [{name: _field(item, name) for name in how["summary_fields"]} for item in items]
    return Aggregated(rows, _about_no_objects(items))


_STRATEGIES: dict[str, Callable[[Mapping[str, Any], Sequence[Any]], Aggregated]] = {
    "concat": _concat,
    "filter": _filter,
    "stats": _stats,
    "group": _group,
    "summary": _summary,
}


def _text(item: Any) -> str:
    """Text as it is, anything else as JSON. Equal objects give equal text, so keys are sorted."""
    if isinstance(item, str):
        return item
    return json.dumps(item, ensure_ascii=False, sort_keys=isinstance(item, dict))


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else None


def _about_no_objects(items: Sequence[Any]) -> tuple[str, ...]:
    return _count(
        items,
        lambda item: not isinstance(item, Mapping),
        "is not an object, so its fields count as null.",
    )


def _count(values: Sequence[Any], odd: Callable[[Any], bool], what: str) -> tuple[str, ...]:
    """One warning for all odd values, which names the first of them; none if no value is odd."""
    numbers = [number for number, value in enumerate(values) if odd(value)]
    if not numbers:
        return ()
    return (f"Item {numbers[0]} {what}{_and_more(len(numbers), len(values))}",)


def _and_more(odd: int, items: int) -> str:
    return f" The same is true of {odd - 1} more of {items} items." if odd > 1 else ""


def _figures(name: str, values: Sequence[Any]) -> Aggregated:
    """The figures of one field. Missing and null values are left out without a warning."""
    numbers = [value for value in values if _is_number(value)]
    odd = _count(
        values,
        lambda value: value is not None and not _is_number(value),
        f"has no usable number in {name!r} and was left out.",
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
    """Whether it is a number that fits into a double, which is how many languages read JSON."""
    # Python counts booleans as integers; JSON does not.
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
    except OverflowError:  # the sum is too large for a double; the mean never is
        return float(sum(map(Fraction, numbers)) / len(numbers))
