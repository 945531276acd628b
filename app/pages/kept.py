"""Keeps rendered parts of pages for a moment, for all who look at the same thing at once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable

KEPT_SECONDS = 0.25
"""So old may a part be that is shown; `app.pages.changes` waits as long before it tells a page."""


class Kept:
    """Texts by key: at most `most` of them, without the oldest."""

    def __init__(self, most: int = 256):
        self._most = most
        self._texts: OrderedDict[Hashable, tuple[float, str]] = OrderedDict()

    def get(self, key: Hashable) -> str | None:
        until, text = self._texts.get(key, (0.0, ""))
        return text if time.monotonic() < until else None

    def put(self, key: Hashable, text: str, read_at: float) -> None:
        """`read_at` is the monotonic time just before it was read what the text shows."""
        self._texts.pop(key, None)
        self._texts[key] = (read_at + KEPT_SECONDS, text)
        if len(self._texts) > self._most:
            self._texts.popitem(last=False)
