"""Watches the event loop that many flows share, and names in the log whoever does not let go of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType

import structlog

from app.runtime.loop import FlowLoop, owners

PAUSE_SECONDS = 0.2

BLOCKED_SECONDS = 0.5
"""A loop that answers nothing for so long is blocked: a flow computes, or waits without `await`."""

PLACES = 20

log = structlog.get_logger(__name__)


class LoopWatch:
    """A thread that asks the loop for an answer, again and again. It costs nothing where no loop runs."""

    def __init__(self, flow_loop: FlowLoop):
        self._flow_loop = flow_loop

    def start(self) -> None:
        """Watches until the process ends."""
        threading.Thread(target=self._watch, name="loop-watch", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(PAUSE_SECONDS)
            loop = self._flow_loop.running
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # a flow may have closed it
                    self._ask(loop)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        answered = threading.Event()
        loop.call_soon_threadsafe(answered.set)
        if not answered.wait(BLOCKED_SECONDS):
            self._tell(loop)
            answered.wait()  # each blocking is told once

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        thread = self._flow_loop.thread
        frame = sys._current_frames().get((thread and thread.ident) or 0)
        task = asyncio.current_task(loop)
        scope = owners.get(task) if task else None
        places = _places(frame)
        names = dict(scope.names) if scope else {}
        log.warning("loop_blocked", **names, seconds=BLOCKED_SECONDS, at=places)


_NOT_THE_FLOWS = (
    asyncio.__file__.removesuffix("__init__.py"),
    threading.__file__,
    f"{Path(__file__).parent.parent}/",
    "<frozen importlib",
)
"""The files of asyncio, of threads, of this service and of imports."""


def _places(frame: FrameType | None) -> list[str]:
    """Where in the code it is, from the flow's own inwards: the first few and the last ones."""
    places = [
        f"{summary.filename}:{summary.lineno} {summary.name}"
        for summary in (traceback.extract_stack(frame) if frame else [])
        if not summary.filename.startswith(_NOT_THE_FLOWS)
    ]
    return places if len(places) <= PLACES else places[: PLACES // 2] + places[-PLACES // 2 :]
