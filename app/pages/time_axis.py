"""Puts times onto an axis that is as wide as the time of an execution, in percentages.

`waterfall` lays out an execution with it. Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.pages.words import duration

MIN_WIDTH = 0.4
"""In percent: also what takes no time can be seen."""

_TICK_SECONDS = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600),
    *(7200, 10_800, 21_600, 43_200, 86_400, 172_800, 432_000, 864_000),
)
_TICKS = 6


@dataclass(frozen=True, slots=True)
class Bar:
    """A length of time. `kind` is `wait`, or the state that it was in or ended with."""

    kind: str
    left: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    left: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """The time from the left end to the right end."""

    begins_at: datetime
    seconds: float

    def bar(self, kind: str, start: datetime, end: datetime, what: str) -> Bar:
        left, right = self._place(start), self._place(end)
        width = max(right - left, MIN_WIDTH)
        title = f"{what}, {duration((end - start).total_seconds())}"
        return Bar(kind, round(min(left, 100 - MIN_WIDTH), 3), round(width, 3), title)

    def share(self, start: datetime, end: datetime) -> float:
        return self._place(end) - self._place(start)

    def ticks(self) -> tuple[Tick, ...]:
        size = next((size for size in _TICK_SECONDS if self.seconds / size <= _TICKS), None)
        if size is None or self.seconds < _TICK_SECONDS[0]:
            return ()
        count = int(self.seconds / size)
        return tuple(
            Tick(round(100 * number * size / self.seconds, 3), _short(number * size, size))
            for number in range(count + 1)
        )

    def _place(self, moment: datetime) -> float:
        share = (moment - self.begins_at).total_seconds() / self.seconds
        return 100 * min(max(share, 0.0), 1.0)


def _short(seconds: float, size: float) -> str:
    """A time on an axis of ticks of this `size`: `0`, `0.2 s`, `80 s`, `80 min`, `6 h`, `2 d`."""
    for unit_seconds, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if size >= unit_seconds:
            return f"{seconds / unit_seconds:g} {unit}" if seconds else "0"
    return f"{seconds:g} s" if seconds else "0"
