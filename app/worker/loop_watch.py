"""Notices which flow blocks the event loop that many flows share. Started by `child`.

The flow is logged at once. If it goes on, the worker is told, and replaces the process
(`hang_watch`).

`app.process.loop_watch` does the watching; this module knows whose task is running.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from app.process.loop_watch import Hold, LoopWatch
from app.process.prctl import set_name
from app.runtime.loop import FlowLoop, owners
from app.worker.thread_stats import LOOP_NAME

PAUSE_SECONDS = 0.2
"""The time between two checks."""

BLOCKED_SECONDS = 0.5
"""A loop that does not answer for this long is blocked: a flow computes, or waits without `await`.
"""

MAX_PLACES = 20
"""Lines of a stack in the log: the first show which step it is, the last where it blocks."""

log = structlog.get_logger(__name__)


class FlowLoopWatch:
    """Watches the event loop of asynchronous flows. Costs nothing while no such loop runs.

    `on_held` gets the names of a run that has blocked the loop for `limit_seconds`, and where it
    is: once for each time that it blocks.
    """

    def __init__(
        self,
        flow_loop: FlowLoop,
        limit_seconds: float,
        on_held: Callable[[Mapping[str, Any], list[str]], None],
    ):
        self._flow_loop = flow_loop
        self._limit_looks = limit_seconds / PAUSE_SECONDS
        self._on_held = on_held
        self._watch = LoopWatch(BLOCKED_SECONDS, PAUSE_SECONDS, self._look)
        self._is_named = False
        self._since = 0.0
        self._looks = 0

    def start(self) -> None:
        """Watches until the process ends."""
        threading.Thread(
            target=self._watch.run,
            args=(self._thread_id, self._pause),
            name="loop-watch",
            daemon=True,
        ).start()

    def _thread_id(self) -> int | None:
        thread = self._flow_loop.thread
        return thread.ident if thread else None

    def _pause(self, seconds: float) -> None:
        """Asks the loop for an answer, then sleeps until the next check."""
        loop = self._flow_loop.running
        if loop is None:
            self._watch.turned()
        else:
            with contextlib.suppress(RuntimeError):  # a flow may have closed the loop
                loop.call_soon_threadsafe(self._turned)
        time.sleep(seconds)

    def _turned(self) -> None:
        self._watch.turned()
        if not self._is_named:
            self._is_named = True
            set_name(LOOP_NAME)

    def _look(self, hold: Hold) -> None:
        """Called at each look at a blocked loop. Looks are counted, and not the time: while the
        machine was asleep, or the process frozen, nobody looked.
        """
        loop = self._flow_loop.running
        if loop is None:
            return
        task = asyncio.current_task(loop)
        scope = owners.get(task) if task else None
        if hold.since != self._since:
            self._since, self._looks = hold.since, 0
            names = dict(scope.names) if scope else {}
            log.warning(
                "loop_blocked", **names, seconds=BLOCKED_SECONDS, at=flows_places(hold.places())
            )
        # Without a run's task the loop only waits for its turn, on a busy machine.
        self._looks = self._looks + 1 if scope else 0
        if scope and self._limit_looks <= self._looks < self._limit_looks + 1:
            self._on_held(scope.names, flows_places(hold.places()))


_NOT_THE_FLOWS = (
    asyncio.__file__.removesuffix("__init__.py"),
    threading.__file__,
    f"{Path(__file__).parent.parent}/",
    f"{Path(__file__).parent.parent.parent}/worker.py",
    "<frozen importlib",
)
"""The files of asyncio, of threads, of this service and of imports."""


def flows_places(stack: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the places in a flow's code and its libraries. `stack` has pairs of file and place.

    Of more than `MAX_PLACES`, returns the first and the last half of that number.
    """
    places = [place for file, place in stack if not file.startswith(_NOT_THE_FLOWS)]
    return (
        places
        if len(places) <= MAX_PLACES
        else places[: MAX_PLACES // 2] + places[-MAX_PLACES // 2 :]
    )
