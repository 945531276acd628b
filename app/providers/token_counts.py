"""Reads the token counts in a model's answer, under the names that servers use; estimates tokens.

`answers.py` calls `token_counts`; `app/runtime/context.py` calls `estimated_tokens` for servers
that report none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAX_TOKENS = 10**12
"""More than any call can use. Larger numbers are ignored, so that counters stay within 64 bits."""

_HOLDERS = ("usage", "usageMetadata", "usage_metadata", "token_usage", "x_groq")

_INPUT = (
    "prompt_tokens",
    "input_tokens",
    "promptTokens",
    "inputTokens",
    "promptTokenCount",
    "prompt_eval_count",
)
_OUTPUT = (
    "completion_tokens",
    "output_tokens",
    "completionTokens",
    "outputTokens",
    "candidatesTokenCount",
    "eval_count",
)
_TOTAL = ("total_tokens", "totalTokens", "totalTokenCount")

_INSIDE = ("total", "total_tokens", "tokens", "count", "value")
"""Keys of the number if a count is an object."""

_DIGITS = re.compile(r"\s*(\d{1,15})(?:\.\d*)?\s*", re.ASCII)


class TokenCounts(NamedTuple):
    """None means "not reported". The total is at least the sum of input and output."""

    input: int | None = None
    output: int | None = None
    total: int | None = None


def token_counts(answer: Mapping[str, Any]) -> TokenCounts:
    """The counts in an answer. If all are zero, nothing was reported: every call uses tokens."""
    places = list(_places(answer))
    input_tokens = _first(places, _INPUT)
    output_tokens = _first(places, _OUTPUT)
    # Some servers leave the total out, or report less than the sum of its parts.
    total = max((input_tokens or 0) + (output_tokens or 0), _first(places, _TOTAL) or 0)
    return TokenCounts(input_tokens, output_tokens, total) if total else TokenCounts()


def estimated_tokens(*texts: str) -> int:
    """About how many tokens the texts have: a quarter of their bytes, in English and in Chinese."""
    return sum(math.ceil(len(text.encode(errors="replace")) / 4) for text in texts)


def _places(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects that may have counts: `usage` and the objects in it, then the answer itself."""
    for name in _HOLDERS:
        usage = answer.get(name)
        if isinstance(usage, dict):
            yield usage
            yield from (value for value in usage.values() if isinstance(value, dict))
    yield answer


def _first(places: list[Mapping[str, Any]], names: tuple[str, ...]) -> int | None:
    counts = (_count(place.get(name)) for place in places for name in names)
    return next((count for count in counts if count is not None), None)


def _count(value: Any) -> int | None:
    """The count in a value: a number, digits in text, or an object with such a value; else None."""
    if isinstance(value, dict):
        return next(
            (count for key in _INSIDE if (count := _count(value.get(key))) is not None), None
        )
    if isinstance(value, str):
        found = _DIGITS.fullmatch(value)
        value = int(found[1]) if found else None
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value <= MAX_TOKENS
    ):
        return None
    return math.ceil(value)
