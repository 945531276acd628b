"""The reaper's beat on the web side: calls `reap` six times a lease for as long as the process lives.

Workers reap too. Any number may: what one has done, the next finds done.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

from app import logs
from app.errors import StoreRefused, StoreUnavailable
from app.executions.store import ExecutionStore

log = structlog.get_logger(__name__)

REAPS_PER_LEASE = 6
"""Every two seconds for a lease of twelve. `reap.lua` takes half a lease without a reap for an outage."""


def pause_seconds(lease_seconds: float, next_due_seconds: float | None = None) -> float:
    """How long to wait before the next reap: with jitter, so that processes do not reap in step."""
    pause = random.uniform(0.75, 1.0) * lease_seconds / REAPS_PER_LEASE  # noqa: S311  nothing secret about it
    return pause if next_due_seconds is None else max(0.05, min(pause, next_due_seconds))


def start_reaper(
    store: ExecutionStore,
    lease_seconds: float,
    stop: threading.Event | None = None,
    also: Callable[[], None] = lambda: None,
) -> threading.Thread:
    """Starts the thread; it ends with the process, or soon after `stop` is set. `also` is called after each reap."""
    stopped = stop or threading.Event()

    def reap_for_ever() -> None:
        next_due: float | None = None
        while not stopped.wait(pause_seconds(lease_seconds, next_due)):
            logs.flush()
            try:
                next_due = store.reap()
                also()
            except Exception as error:
                next_due = None  # the next beat tries again: nobody else may be there to do it
                if isinstance(error, StoreRefused) or not isinstance(error, StoreUnavailable):
                    log.exception("reap_failed")

    thread = threading.Thread(target=reap_for_ever, name="reaper", daemon=True)
    thread.start()
    return thread
