"""Notices that an event loop is held: a thread beside it looks whether the loop still turns, and
where it stands.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from types import FrameType


@dataclass(frozen=True, slots=True)
class Hold:
    """A time in which the loop does not turn, as it is seen just now. `since` tells it from
    every other one.
    """

    since: float
    seconds: float
    frame: FrameType

    def places(self) -> list[tuple[str, str]]:
        """Where the loop's thread stands, from the outside inwards: each file, and the place in
        words.
        """
        stack = traceback.extract_stack(self.frame)
        return [
            (place.filename, f"{place.filename}:{place.lineno} {place.name}") for place in stack
        ]


class LoopWatch:
    """Used by three kinds of loops, which differ in how they say that they turn, and in who is
    told.

    `turned` is called in the loop, at least every `look_seconds`. `on_held` is called in the
    watching thread, for each look at a loop that has not turned for `held_seconds`. Where that
    thread did not run either, the machine was busy or asleep, or the loop's thread held the
    interpreter: `tells_freezes` says whether that is told.
    """

    def __init__(
        self,
        held_seconds: float,
        look_seconds: float,
        on_held: Callable[[Hold], None],
        tells_freezes: bool = True,
    ):
        self._held_seconds, self._look_seconds, self._on_held = held_seconds, look_seconds, on_held
        self._tells_freezes = tells_freezes
        self._turned_at = monotonic()
        self._is_over = False

    def turned(self) -> None:
        self._turned_at = monotonic()

    def close(self) -> None:
        self._is_over = True

    @property
    def is_over(self) -> bool:
        return self._is_over

    def run(
        self, thread_id: Callable[[], int | None], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Looks until `close`, in a thread of its own; sleeps between two looks."""
        looked_at = monotonic()
        while not self._is_over:
            sleep(self._look_seconds)
            now, since = monotonic(), self._turned_at
            is_frozen, looked_at = now - looked_at > self._held_seconds, now
            if now - since <= self._held_seconds or (is_frozen and not self._tells_freezes):
                continue
            frame = sys._current_frames().get(thread_id() or 0)
            if frame is not None:
                self._on_held(Hold(since, now - since, frame))
