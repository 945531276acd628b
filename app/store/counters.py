"""The counters in the store: how their fields are named, and how a process adds to them.

The scripts count what they do, in the same step. What happens outside of the store (HTTP requests,
model calls) a process counts by itself, and reports from time to time.

    c:<type>:<target>                       created
    w:<queue>:<bucket>                      created to first start
    r:<type>:<target>:<status>:<bucket>     ended; start to end of the last attempt
    x:<type>:<target>:<status>              ended while it waited
    a:<lost, retried or handed_back>        attempts
    u:unreadable                            records that made no sense
    mc:<model>  mi:  mo:  mr:               model calls, tokens in and out, retries; mx:<error>:<model>
    h:<method>:<status>:<route>             HTTP requests
    d:<method>:<bucket>:<route>             their durations

A bucket is its upper bound in milliseconds or `inf`; beside the buckets stands `sum`, in
microseconds.
"""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

from app.process.aside import short_lock

BOUNDS_MS = (
    10,
    50,
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10_000,
    30_000,
    60_000,
    300_000,
    1_800_000,
    7_200_000,
)
"""The same as in prelude.lua."""


def bucket(seconds: float) -> str:
    """The bucket that a duration belongs into."""
    place = bisect_left(BOUNDS_MS, seconds * 1000)
    return str(BOUNDS_MS[place]) if place < len(BOUNDS_MS) else "inf"


class Counts:
    """What was counted since it was last taken. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = short_lock()
        self._counts: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            for field, amount in counts.items():
                self._counts[field] += amount

    def take(self) -> dict[str, int]:
        """Everything, once."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(taken)


class Reports(Counts):
    """Counts on their way to the store: each is added there exactly once, however often it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self._reporter = secrets.token_hex(6)
        self._telling = threading.Lock()
        self._number, self._open = 0, {}  # type: tuple[int, dict[str, int]]

    def next(self) -> tuple[int, list[str | int]]:
        """The number of a report and the arguments of `count.lua`; none where there is nothing to
        tell.

        The same report comes again until it is `told`.
        """
        with self._telling:
            if not self._open:
                self._open = self.take()
                self._number += bool(self._open)
            flat = [each for pair in self._open.items() for each in pair]
            return self._number, [self._reporter, self._number, *flat] if flat else []

    def told(self, number: int) -> None:
        """The store has this one."""
        with self._telling:
            if number == self._number:
                self._open = {}
