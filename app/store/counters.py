"""Names the fields of the counters in the store, and collects what one process counts by itself.

The Lua functions count transitions in the same step. A process counts what happens outside of the
store (HTTP requests, model calls), and `count.lua` adds its reports. `/metrics` shows the sums.

    c:<type>:<target>                     executions created
    w:<queue>:<bucket>                    time from creation to the first start
    r:<type>:<target>:<status>:<bucket>   executions that ran and ended; time of the last attempt
    x:<type>:<target>:<status>            executions that ended while they waited
    a:<lost, retried or handed_back>      attempts
    u:unreadable                          unreadable records
    mc:<model>                            model calls
    mi:<model>, mo:<model>                their input and output tokens
    mr:<model>, mx:<error>:<model>        their retries and errors
    wd:<outcome>                          webhook deliveries that ended
    wt:<2xx, ..., none or lost>           tries of deliveries, by the receiver's answer
    h:<method>:<status>:<route>           HTTP requests
    d:<method>:<bucket>:<route>           durations of HTTP requests

A bucket is named after its upper bound in milliseconds, or `inf`. Beside the buckets of a histogram
there is `sum`, in microseconds.
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
"""Upper bounds of the buckets; the Lua functions receive them as `BOUNDS`."""


def bucket(seconds: float) -> str:
    """The name of the bucket for a duration."""
    place = bisect_left(BOUNDS_MS, seconds * 1000)
    return str(BOUNDS_MS[place]) if place < len(BOUNDS_MS) else "inf"


class Counts:
    """Counts until the counts are taken. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = short_lock()
        self._counts: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            for field, amount in counts.items():
                self._counts[field] += amount

    def take(self) -> dict[str, int]:
        """Returns all counts, and starts again from zero."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(taken)


class Reports(Counts):
    """Counts that are sent to the store. A report may be sent again, and is added only once.

    Reports are numbered, and the store remembers the last number of each reporter.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reporter = secrets.token_hex(6)
        self._telling = threading.Lock()
        self._number = 0
        self._open: dict[str, int] = {}

    def next(self) -> tuple[int, list[str | int]]:
        """The number of the next report and the arguments of `count.lua`, or `[]` if there is
        nothing to report. Returns the same report until `told` confirms it.
        """
        with self._telling:
            if not self._open:
                self._open = self.take()
                self._number += bool(self._open)
            flat = [word for pair in self._open.items() for word in pair]
            return self._number, [self._reporter, self._number, *flat] if flat else []

    def told(self, number: int) -> None:
        """Call it when the store has confirmed the report with this number."""
        with self._telling:
            if number == self._number:
                self._open = {}
