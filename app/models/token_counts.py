"""Reads what a server reports as used, in the forms and names that servers give it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAX_TOKENS = 10**12
"""More than any call can use. Larger numbers are nonsense, and counters stay within 64 bits."""

_HOLDERS = ("usage", "usageMetadata", "usage_metadata", "token_usage")

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
"""Where the number is, if what should be one is an object."""

_DIGITS = re.compile(r"\s*(\d{1,15})(?:\.\d*)?\s*", re.ASCII)


class TokenCounts(NamedTuple):
    """None is "not reported". A total that is missing or too small is the sum of its parts."""

    input: int | None = None
    output: int | None = None
    total: int | None = None


def token_counts(answer: Mapping[str, Any]) -> TokenCounts:
    """From an answer's `usage`. Zeros alone count as nothing: no call is without tokens."""
    places = list(_places(answer))
    given, made, total = (_first(places, names) for names in (_INPUT, _OUTPUT, _TOTAL))
    total = max((given or 0) + (made or 0), total or 0)
    return TokenCounts(given, made, total) if total else TokenCounts()


def estimated_tokens(*texts: str) -> int:
    """About how many tokens texts have: a quarter of their bytes, for English and Chinese alike."""
    return sum(math.ceil(len(text.encode(errors="replace")) / 4) for text in texts)


def _places(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Where counts may stand: `usage` and the objects within it, then the answer itself."""
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
    """A number of tokens, also as text, as a fraction, or one level deeper; else None."""
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
