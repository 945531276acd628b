"""Logs which request held the event loop, and with it all others, for too long.

A greenlet ticks, and a thread outside the loop looks if it still does. (gevent's own monitor traces every switch of
greenlets, and its report lists all of them, which takes the longer the more clients wait.)
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import structlog
from gevent import monkey

HELD_SECONDS = 0.1

_TICK_SECONDS = 0.05
_TOLD_EVERY_SECONDS = 1.0
_KEPT = 100
_SHOWN_FRAMES = 4
_SHOWN_PATH = 200
_ROOT = Path(__file__).parent.parent.parent

log = structlog.get_logger(__name__)


@dataclass
class Hold:
    """A time in which the loop did not go on, as it was seen last."""

    since: float
    seconds: float
    request: Any
    where: list[str]


class LoopMonitor:
    """Watches the loop of the thread that makes it."""

    def __init__(self) -> None:
        self._thread_id = monkey.get_original("_thread", "get_ident")()
        self._ticked_at = monotonic()
        self._holds: deque[Hold] = deque(maxlen=_KEPT)

    def start(self) -> None:
        """Call once, when the process is ready."""
        self._ticked_at = monotonic()
        gevent.spawn(self._tick)
        gevent.spawn(self._tell)
        monkey.get_original("_thread", "start_new_thread")(self._look, ())

    def _tick(self) -> None:
        while True:
            self._ticked_at = monotonic()
            gevent.sleep(_TICK_SECONDS)

    def _look(self) -> None:
        """Runs in a thread of its own, where no lock of the loop may be taken: so it logs nothing."""
        sleep = monkey.get_original("time", "sleep")
        while True:
            sleep(_TICK_SECONDS)
            since = self._ticked_at
            seconds = monotonic() - since
            if seconds < HELD_SECONDS + _TICK_SECONDS:
                continue
            if self._holds and self._holds[-1].since == since:
                self._holds[-1].seconds = seconds
            elif (frame := sys._current_frames().get(self._thread_id)) and (where := _where(frame)):
                self._holds.append(Hold(since, seconds, _request(frame), where))  # else a busy machine held it

    def _tell(self) -> None:
        while True:
            gevent.sleep(_TOLD_EVERY_SECONDS)
            while self._holds:
                hold = self._holds.popleft()
                method = hold.request.method if hold.request else None
                path = hold.request.path[:_SHOWN_PATH] if hold.request else None
                log.warning("loop_held", seconds=round(hold.seconds, 2), method=method, path=path, where=hold.where)


def _request(frame: Any) -> Any:
    """The one that is served in this frame; None where none is."""
    while frame is not None:
        if frame.f_code.co_name == "handle_request" and "req" in frame.f_locals:
            return frame.f_locals["req"]
        frame = frame.f_back
    return None


def _where(frame: Any) -> list[str]:
    """The innermost places in the service's own code."""
    own = [place for place in traceback.extract_stack(frame) if Path(place.filename).is_relative_to(_ROOT / "app")]
    shown = own[-_SHOWN_FRAMES:]
    return [f"{Path(place.filename).relative_to(_ROOT)}:{place.lineno} {place.name}" for place in shown]
