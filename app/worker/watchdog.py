"""Logs when the worker's event loop was blocked, and where. Started by `main`.

While a callback computes or blocks, the worker extends no lease, so each such place is a bug.
"""

from __future__ import annotations

import asyncio
import threading

import structlog

from app.process.loop_watch import Hold, LoopWatch

HELD_SECONDS = 0.2
"""A loop that does not turn for this long is logged. Far below the shortest lease."""

CHECK_SECONDS = 0.05
"""The time between two checks, and between two turns that the loop reports."""

_AT_REST = ("selectors.py", "base_events.py")
"""Files of asyncio. A stack that ends in them is that of an idle loop, or of one that got no
processor: no callback blocks it.
"""

log = structlog.get_logger(__name__)


class Watchdog:
    """Watches the event loop in which it is created."""

    def __init__(self) -> None:
        self._loop, self._thread_id = asyncio.get_running_loop(), threading.get_ident()
        self._watch = LoopWatch(HELD_SECONDS, CHECK_SECONDS, self._tell, tells_freezes=False)
        self._told = 0.0

    def start(self) -> None:
        """Watches until `close`. If no thread can be started, it logs that and does not watch."""
        self._turn()
        try:
            threading.Thread(
                target=self._watch.run,
                args=(lambda: self._thread_id,),
                name="watchdog",
                daemon=True,
            ).start()
        except RuntimeError as error:
            log.warning("watchdog_not_started", reason=str(error))

    def close(self) -> None:
        self._watch.close()

    def _turn(self) -> None:
        self._watch.turned()
        if not self._watch.is_over:
            self._loop.call_later(CHECK_SECONDS, self._turn)

    def _tell(self, hold: Hold) -> None:
        """Logs one line for each time that the loop is blocked."""
        places = hold.places()
        if hold.since != self._told and not places[-1][0].endswith(_AT_REST):
            self._told = hold.since
            log.warning(
                "event_loop_held",
                seconds=round(hold.seconds, 2),
                at=[place for _, place in places[-4:]],
            )
