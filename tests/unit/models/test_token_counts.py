"""Token counts, in all the forms in which servers report them."""

from __future__ import annotations

from typing import Any

import pytest

from app.providers.token_counts import MAX_TOKENS, estimated_tokens, token_counts

USAGES: list[tuple[Any, tuple[int | None, int | None, int | None]]] = [
    ({"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}, (11, 5, 16)),
    # A total that is missing or too small is the sum.
    ({"prompt_tokens": 900, "completion_tokens": 100}, (900, 100, 1000)),
    ({"prompt_tokens": 900}, (900, None, 900)),
    ({"completion_tokens": 100}, (None, 100, 100)),
    ({"total_tokens": 7}, (None, None, 7)),
    ({"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 0}, (900, 100, 1000)),
    ({"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": None}, (900, 100, 1000)),
    ({"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 30}, (5, 5, 30)),
    # Other forms of numbers.
    ({"prompt_tokens": "900", "completion_tokens": " 100 "}, (900, 100, 1000)),
    ({"prompt_tokens": 900.0, "completion_tokens": "100.0"}, (900, 100, 1000)),
    ({"prompt_tokens": {"total": 900}, "completion_tokens": {"tokens": "100"}}, (900, 100, 1000)),
    # Other names and places.
    ({"input_tokens": 3, "output_tokens": 4}, (3, 4, 7)),
    ({"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 9}, (3, 4, 9)),
    ({"billed_units": {"input_tokens": 3, "output_tokens": 4}}, (3, 4, 7)),
    # Nothing, or nothing usable.
    ({}, (None, None, None)),
    (None, (None, None, None)),
    ([], (None, None, None)),
    ("16", (None, None, None)),
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (None, None, None)),
    ({"prompt_tokens": -1, "completion_tokens": -1, "total_tokens": -1}, (None, None, None)),
    ({"total_tokens": True}, (None, None, None)),
    ({"total_tokens": float("inf")}, (None, None, None)),
    ({"total_tokens": 10**400}, (None, None, None)),
    ({"total_tokens": "9" * 5000}, (None, None, None)),
    ({"total_tokens": "many"}, (None, None, None)),
    ({"total_tokens": [16]}, (None, None, None)),
]


@pytest.mark.parametrize(("usage", "counts"), USAGES, ids=[str(usage)[:60] for usage, _ in USAGES])
def test_usage_is_read_tolerantly(
    usage: Any, counts: tuple[int | None, int | None, int | None]
) -> None:
    assert token_counts({"usage": usage}) == counts


def test_counts_beside_the_answer_are_found() -> None:
    assert token_counts({"prompt_eval_count": 3, "eval_count": 4}) == (3, 4, 7)
    assert token_counts({"usageMetadata": {"promptTokenCount": 3}}) == (3, None, 3)
    assert token_counts({"usage": {"total_tokens": MAX_TOKENS + 1}}) == (None, None, None)


def test_an_estimate_is_a_quarter_of_the_bytes_of_each_text() -> None:
    assert estimated_tokens("12345678", "1", "") == 3
    assert estimated_tokens("你好世界") == 3
    assert estimated_tokens("\ud800") == 1
    assert estimated_tokens() == 0
