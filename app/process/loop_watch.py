"""Notices that an event loop is blocked, and where: a second thread checks whether it still turns.

Used for three kinds of loops: a web process's, a worker's (`app.worker.watchdog`), and the one that
flows share (`app.worker.loop_watch`).
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
    """A blocked loop, as one check finds it. `since` is the moment of the monotonic clock when the
    loop last turned: two checks of the same blocking have the same `since`.
    """

    since: float
    seconds: float
    frame: FrameType

    def places(self) -> list[tuple[str, str]]:
        """Returns the stack of the loop's thread, outermost call first: for each call its file, and
        `file:line function`.
        """
        stack = traceback.extract_stack(self.frame)
        return [
            (place.filename, f"{place.filename}:{place.lineno} {place.name}") for place in stack
        ]


class LoopWatch:
    """Watches one loop. The owner calls `turned` in the loop at least every `check_seconds`.

    The watching thread calls `on_held` at each check that finds that the loop has not turned for
    `held_seconds`. If the watching thread did not run either, the machine was busy or asleep, or
    the loop's thread held the interpreter: `on_held` is then called only if `tells_freezes`.
    """

    def __init__(
        self,
        held_seconds: float,
        check_seconds: float,
        on_held: Callable[[Hold], None],
        tells_freezes: bool = True,
    ):
        self._held_seconds = held_seconds
        self._check_seconds = check_seconds
        self._on_held = on_held
        self._tells_freezes = tells_freezes
        self._turned_at = monotonic()
        self._is_over = False

    def turned(self) -> None:
        """Notes that the loop is not blocked. The loop itself calls it."""
        self._turned_at = monotonic()

    def close(self) -> None:
        self._is_over = True

    @property
    def is_over(self) -> bool:
        return self._is_over

    def run(
        self, thread_id: Callable[[], int | None], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Checks until `close`. The owner calls it in a thread of its own. `thread_id` returns the
        loop's thread, or None while there is no loop.
        """
        checked_at = monotonic()
        while not self._is_over:
            sleep(self._check_seconds)
            now, since = monotonic(), self._turned_at
            is_frozen, checked_at = now - checked_at > self._held_seconds, now
            if now - since <= self._held_seconds or (is_frozen and not self._tells_freezes):
                continue
            # There is no public function for the stack of another thread.
            frame = sys._current_frames().get(thread_id() or 0)
            if frame is not None:
                self._on_held(Hold(since, now - since, frame))
