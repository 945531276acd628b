"""Suggests the nearest known name for a misspelled one, as a sentence for an error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """` Did you mean 'x'?` with its leading space, or nothing if no known name is similar enough.

    `similarity` is from 0 (anything) to 1 (equal names only).
    """
    matches = difflib.get_close_matches(name, list(known), 1, similarity)
    return f" Did you mean {matches[0]!r}?" if matches else ""
