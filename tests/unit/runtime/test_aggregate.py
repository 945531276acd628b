"""Aggregators: what they make of the outputs of a batch, and of items that do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.runtime.aggregate import aggregate
from app.runtime.errors import FlowError

HUGE = 10**400
"""JSON can hold it; a double cannot, and so neither can most other languages."""


def many(odd: Any, usual: Any) -> list[Any]:
    """One odd item among a thousand."""
    items = [usual] * 1000
    items[7] = odd
    return items


def test_the_keys_of_groups_are_text_as_it_is_and_anything_else_as_json() -> None:
    items = [{"mood": mood} for mood in ("good", None, True, "good", 2, "好")]
    grouped = aggregate({"strategy": "group", "group_by": "mood"}, items)
    assert list(grouped.value) == ["good", "null", "true", "2", "好"]
    assert len(grouped.value["good"]) == 2
    assert grouped.warnings == ()


def test_equal_objects_are_one_group() -> None:
    items = [{"key": {"a": 1, "b": 2}}, {"key": {"b": 2, "a": 1}}]
    assert len(aggregate({"strategy": "group", "group_by": "key"}, items).value) == 1


def test_a_group_of_text_and_of_the_value_that_it_spells_is_warned_of() -> None:
    items = [{"mood": "null"}, {"mood": None}, {"mood": "fine"}]
    [warning] = aggregate({"strategy": "group", "group_by": "mood"}, items).warnings
    assert "'null'" in warning


PRICES = {
    "group": (
        {"group_by": "price"},
        lambda value: (len(value["2"]), len(value["null"])) == (999, 1),
    ),
    "summary": (
        {"summary_fields": ["price"]},
        lambda value: value[6:8] == [{"price": 2}, {"price": None}],
    ),
    "stats": ({"fields": ["price"]}, lambda value: value["price"]["count"] == 999),
}
"""For each strategy, what it needs, and a check of its value for 999 items with the price 2."""


@pytest.mark.parametrize("odd", [5, "text", None, [1], True])
@pytest.mark.parametrize("strategy", PRICES)
def test_an_item_that_is_no_object_is_warned_of(strategy: str, odd: Any) -> None:
    needs, right = PRICES[strategy]
    aggregated = aggregate({"strategy": strategy, **needs}, many(odd, {"price": 2}))
    assert right(aggregated.value)
    [warning] = aggregated.warnings
    assert warning.startswith("Item 7 is not an object")


DEAR = {"strategy": "filter", "condition": "item.price > 1"}


@pytest.mark.parametrize("price", ["5", "", "cheap"])
def test_an_item_that_a_filter_cannot_look_at_counts_as_false(price: Any) -> None:
    aggregated = aggregate(DEAR, many({"price": price}, {"price": 2}))
    assert aggregated.value == [{"price": 2}] * 999
    [warning] = aggregated.warnings
    assert warning.startswith(
        "Item 7 counts as false: The condition 'price > `1`' cannot be evaluated"
    )


@pytest.mark.parametrize(
    "odd", [{"price": {}}, {"price": []}, {"price": None}, {}, None, 5, "text", {"price": True}]
)
def test_an_item_that_jmespath_compares_to_nothing_is_false_without_a_warning(odd: Any) -> None:
    aggregated = aggregate(DEAR, many(odd, {"price": 2}))
    assert (aggregated.value, aggregated.warnings) == ([{"price": 2}] * 999, ())


def test_many_items_that_a_filter_cannot_look_at_are_one_warning() -> None:
    how = {"strategy": "filter", "condition": "length(name) > `1`"}
    [warning] = aggregate(how, [{"name": None}, {"name": "ab"}, {}, {"name": 3}]).warnings
    assert "Item 0" in warning
    assert "2 more of 4 items" in warning


def test_a_warning_is_short_and_hides_what_looks_like_a_key() -> None:
    secret = "sk-" + "a1B2" * 10
    how = {"strategy": "filter", "condition": "abs(name) > `1`"}
    [warning] = aggregate(how, [{"name": f"{secret} " + "x" * 10_000}]).warnings
    assert secret not in warning
    assert len(warning) < 500


STATS = {"strategy": "stats", "fields": ["price"]}


def figures(prices: list[Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    aggregated = aggregate(STATS, [{"price": price} for price in prices])
    return aggregated.value["price"], aggregated.warnings


@pytest.mark.parametrize("odd", ["5", True, [5], {"a": 5}, float("nan"), float("inf"), HUGE, -HUGE])
def test_what_is_no_usable_number_is_left_out_of_the_figures(odd: Any) -> None:
    found, [warning] = figures(many(odd, 2))
    assert found == {"count": 999, "sum": 1998, "mean": 2, "min": 2, "max": 2}
    assert warning.startswith("Item 7 has no usable number in 'price'")


def test_a_value_that_is_missing_or_null_is_left_out_without_a_warning() -> None:
    aggregated = aggregate(STATS, [{"price": 1}, {}, {"price": None}])
    assert (aggregated.value["price"]["count"], aggregated.warnings) == (1, ())


@pytest.mark.parametrize(
    "prices", [[1e308, 1e308], [10**308, 10**308], [10**308, 1e308], [1e308] * 500]
)
def test_a_sum_that_is_too_large_is_null_and_the_mean_is_right(prices: list[float]) -> None:
    found, [warning] = figures(prices)
    assert (found["sum"], found["count"]) == (None, len(prices))
    assert found["mean"] == pytest.approx(1e308)
    assert warning == "The sum of 'price' is too large for a number."
    json.dumps(found, allow_nan=False)


def test_a_null_is_left_out_of_a_text_and_anything_else_is_json() -> None:
    aggregated = aggregate({"strategy": "concat"}, ["a", None, 2, {"b": True}])
    assert aggregated.value == 'a\n2\n{"b": true}'
    assert aggregated.warnings == ("Item 1 is null and was left out.",)


@pytest.mark.parametrize(
    ("how", "nothing"),
    [
        ({"strategy": "concat"}, ""),
        ({"strategy": "filter", "condition": "x"}, []),
        ({"strategy": "group", "group_by": "x"}, {}),
        ({"strategy": "summary", "summary_fields": ["x"]}, []),
    ],
)
def test_null_counts_as_an_empty_list_with_a_warning(how: dict[str, Any], nothing: Any) -> None:
    aggregated = aggregate(how, None)
    assert aggregated.value == nothing
    assert aggregated.warnings == ("'items' is null and was treated as an empty list.",)


@pytest.mark.parametrize("items", ["text", {}, 5, True])
def test_items_that_are_no_list_are_refused(items: Any) -> None:
    with pytest.raises(FlowError, match="not a list"):
        aggregate({"strategy": "concat"}, items)
