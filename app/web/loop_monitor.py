"""Logs which request blocked a web process's event loop, and with it all other requests.

`app.web.lifecycle` starts a `LoopMonitor` in each web process. A greenlet ticks, and a thread
outside the loop checks that it still does. gevent's own monitor is not used: it traces every switch
of greenlets, and its report lists all of them, so it gets slower with every client.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import structlog
from gevent import monkey

from app.process.loop_watch import Hold, LoopWatch

HELD_SECONDS = 0.1

_TICK_SECONDS = 0.05
_TOLD_EVERY_SECONDS = 1.0
_KEPT = 100
_SHOWN_FRAMES = 4
_SHOWN_PATH = 200
_ROOT = Path(__file__).parent.parent.parent

log = structlog.get_logger(__name__)


@dataclass
class Held:
    """One time that the loop was blocked: since when, how long, by which request, and where."""

    since: float
    seconds: float
    request: Any
    where: list[str]


class LoopMonitor:
    """Watches the event loop of the thread that creates it."""

    def __init__(self) -> None:
        self._thread_id = monkey.get_original("_thread", "get_ident")()
        self._watch = LoopWatch(HELD_SECONDS + _TICK_SECONDS, _TICK_SECONDS, self._note)
        self._holds: deque[Held] = deque(maxlen=_KEPT)

    def start(self) -> None:
        """Call once, when the process is ready."""
        self._watch.turned()
        gevent.spawn(self._tick)
        gevent.spawn(self._tell)
        sleep = monkey.get_original("time", "sleep")
        monkey.get_original("_thread", "start_new_thread")(
            self._watch.run, (lambda: self._thread_id, sleep)
        )

    def _tick(self) -> None:
        while True:
            self._watch.turned()
            gevent.sleep(_TICK_SECONDS)

    def _note(self, hold: Hold) -> None:
        """Remembers a hold for `_tell`. It runs in the watching thread."""
        # It must not log: the logger's locks belong to the loop, which is blocked.
        if self._holds and self._holds[-1].since == hold.since:
            self._holds[-1].seconds = hold.seconds
        elif where := _where(hold):  # if none of our code is there, the machine was busy
            self._holds.append(Held(hold.since, hold.seconds, _request(hold.frame), where))

    def _tell(self) -> None:
        while True:
            gevent.sleep(_TOLD_EVERY_SECONDS)
            while self._holds:
                hold = self._holds.popleft()
                method = hold.request.method if hold.request else None
                path = hold.request.path[:_SHOWN_PATH] if hold.request else None
                log.warning(
                    "loop_held",
                    seconds=round(hold.seconds, 2),
                    method=method,
                    path=path,
                    where=hold.where,
                )


def _request(frame: Any) -> Any:
    """The gunicorn request that this frame serves, or None."""
    while frame is not None:
        if frame.f_code.co_name == "handle_request" and "req" in frame.f_locals:
            return frame.f_locals["req"]
        frame = frame.f_back
    return None


def _where(hold: Hold) -> list[str]:
    """The innermost lines of the service's own code in the stack."""
    own = [place for file, place in hold.places() if Path(file).is_relative_to(_ROOT / "app")]
    return [place.removeprefix(f"{_ROOT}/") for place in own[-_SHOWN_FRAMES:]]
