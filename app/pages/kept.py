"""Keeps rendered parts of pages for a moment, so that all who look at the same thing share one.

Many people may have the same page open, and all of them ask again when something has changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

KEPT_SECONDS = 0.25
"""So old may a part be that is shown; `app.pages.changes` waits as long before it tells a page."""


class _Part:
    """One part. `read_at` is the moment just before it was read what the text shows."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.read_at = 0.0
        self.text = ""


class Kept:
    """Texts by key. Safe to use from many greenlets."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, _Part] = {}

    def get(self, key: Hashable, make: Callable[[], str]) -> str:
        """The text that `make` returns for this key, or returned at most `KEPT_SECONDS` ago.

        Who asks while another one makes it waits for that one. Raises what `make` raises.
        """
        asked_at = time.monotonic()
        part = self._parts.get(key) or self._new(key, asked_at)
        with part.lock:
            if part.read_at <= asked_at - KEPT_SECONDS:
                read_at = time.monotonic()
                part.text = make()
                part.read_at = read_at
            return part.text

    def _new(self, key: Hashable, now: float) -> _Part:
        """Adds a part, and forgets those that are too old to be shown again."""
        for old, part in list(self._parts.items()):
            if part.read_at <= now - KEPT_SECONDS and not part.lock.locked():
                del self._parts[old]
        part = self._parts[key] = _Part()
        return part
