"""Logs which request held the event loop, and with it all others, for too long.

gevent's monitor finds it: a thread outside the loop that looks ten times a second if the loop went on. (gevent's
own report of it lists every greenlet, which takes the longer the more clients wait.)
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import structlog

HELD_SECONDS = 0.1

_NEVER_SECONDS = 1e9
_TOLD_EVERY_SECONDS = 1.0
_KEPT = 100
_SHOWN_FRAMES = 4
_SHOWN_PATH = 200
_ROOT = Path(__file__).parent.parent.parent

log = structlog.get_logger(__name__)


@dataclass
class Hold:
    """One greenlet that did not give way."""

    greenlet: Any
    where: list[str]
    seconds: float = HELD_SECONDS


def start() -> None:
    """Call once, in a process whose loop is to be watched."""
    holds: deque[Hold] = deque(maxlen=_KEPT)
    gevent.config.max_blocking_time = _NEVER_SECONDS  # for the report of gevent's own
    gevent.config.monitor_thread = True
    monitor = gevent.get_hub().start_periodic_monitoring_thread()
    monitor.add_monitoring_function(partial(_look, monitor, holds), HELD_SECONDS)
    gevent.spawn(_tell_for_ever, holds)


def _look(monitor: Any, holds: deque[Hold], hub: Any) -> None:
    """Runs in the monitor's thread, where no lock may be taken: so it logs nothing."""
    held = monitor._greenlet_tracer.did_block_hub(hub)
    if not held:
        return
    if holds and holds[-1].greenlet is held[1]:
        holds[-1].seconds += HELD_SECONDS
    else:
        holds.append(Hold(held[1], _where(sys._current_frames()[hub.thread_ident])))


def _where(frame: Any) -> list[str]:
    """The innermost places in the service's own code."""
    own = [place for place in traceback.extract_stack(frame) if Path(place.filename).is_relative_to(_ROOT / "app")]
    shown = own[-_SHOWN_FRAMES:]
    return [f"{Path(place.filename).relative_to(_ROOT)}:{place.lineno} {place.name}" for place in shown]


def _tell_for_ever(holds: deque[Hold]) -> None:
    while True:
        gevent.sleep(_TOLD_EVERY_SECONDS)
        while holds:
            hold = holds.popleft()
            request = getattr(hold.greenlet, "request", None)
            path = request.path[:_SHOWN_PATH] if request else None
            method = request.method if request else None
            log.warning("loop_held", seconds=round(hold.seconds, 1), method=method, path=path, where=hold.where)
