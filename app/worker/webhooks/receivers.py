"""Shares the places of a worker out among receivers, so that a dead one does not take them all."""

from __future__ import annotations

import time
from collections import Counter
from urllib.parse import urlsplit

SHARE = 4
"""One host gets this part of the places at most: a quarter."""

LEAST = 2
"""A host that does not answer still gets so many places: that is how it is found to be back."""

LONGEST_PAUSE_SECONDS = 60.0
"""The longest wait of a delivery for a place of its host."""

MOST_HOSTS = 10_000
"""Of more silent hosts than this, the one that has been silent longest is forgotten."""


def host_of(url: str) -> str:
    """The host that a delivery goes to; empty if the URL has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class Receivers:
    """Knows how many tries each host has now, and which hosts do not answer.

    With each try that gets no answer, a host's places are halved. With the next answer it has all
    of them again. A delivery that finds no place is set aside for as long as those before it need.
    """

    def __init__(self, places: int):
        self._most = max(LEAST, places // SHARE)
        self._busy: Counter[str] = Counter()
        self._silent: dict[str, int] = {}
        self._turn_at: dict[str, float] = {}
        self._took_seconds: dict[str, float] = {}

    def enter(self, host: str) -> float:
        """Takes a place and returns 0; if there is none, returns the seconds to wait for one."""
        most = self._places(host)
        if self._busy[host] < most:
            self._busy[host] += 1
            return 0.0
        now = time.monotonic()
        turn_at = max(now, self._turn_at.get(host, 0.0)) + self._took_seconds.get(host, 1.0) / most
        self._turn_at[host] = min(turn_at, now + LONGEST_PAUSE_SECONDS)
        return max(1.0, self._turn_at[host] - now)

    def leave(self, host: str, seconds: float, answered: bool) -> None:
        """Frees the place of a try that took so long."""
        self._busy[host] -= 1
        self._took_seconds[host] = seconds
        silent = self._silent.pop(host, 0)
        if not answered:
            self._silent[host] = silent + 1
            if len(self._silent) > MOST_HOSTS:
                del self._silent[next(iter(self._silent))]
        if not self._busy[host]:
            del self._busy[host]
            self._turn_at.pop(host, None)
            self._took_seconds.pop(host, None)

    def _places(self, host: str) -> int:
        return max(LEAST, self._most >> min(30, self._silent.get(host, 0)))
