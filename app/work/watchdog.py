"""Says when the event loop was held: by a callback that computes or blocks, no lease is extended meanwhile."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback

import structlog

HELD_SECONDS = 0.2

LOOK_SECONDS = 0.05

_AT_REST = ("selectors.py", "base_events.py")
"""Where a loop stands that has nothing to do, or was not given the processor: nobody holds it."""

log = structlog.get_logger(__name__)


class Watchdog:
    """A thread that looks where the loop stands, and a callback in the loop that says it still turns."""

    def __init__(self) -> None:
        self._turned_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._closed = threading.Event()

    def start(self) -> None:
        """Watches the running loop until `close`. Without a thread to be had, it does not watch."""
        self._turn()
        try:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        except RuntimeError as error:
            log.warning("watchdog_not_started", reason=str(error))

    def close(self) -> None:
        self._closed.set()

    def _turn(self) -> None:
        self._turned_at = time.monotonic()
        if not self._closed.is_set():
            self._loop.call_later(LOOK_SECONDS, self._turn)

    def _watch(self) -> None:
        """One line for each time that the loop was held, with the place where it stood."""
        looked_at, told_at = time.monotonic(), 0.0
        while not self._closed.wait(LOOK_SECONDS):
            now = time.monotonic()
            frozen = now - looked_at > HELD_SECONDS  # this thread did not run either: the machine's doing
            looked_at, turned_at = now, self._turned_at
            held_seconds = now - turned_at
            if held_seconds > HELD_SECONDS and not frozen and told_at != turned_at and (place := self._place()):
                told_at = turned_at
                log.warning("event_loop_held", seconds=round(held_seconds, 2), at=place)

    def _place(self) -> list[str]:
        """The innermost places in the code; none if the loop is at rest."""
        frame = sys._current_frames().get(self._loop_thread)
        places = traceback.extract_stack(frame)
        if not places or places[-1].filename.endswith(_AT_REST):
            return []
        return [f"{place.filename}:{place.lineno} {place.name}" for place in places[-4:]]
