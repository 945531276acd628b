"""The reaper's beat on the web side: calls `reap` every two seconds for as long as the process lives.

Workers reap too. Any number may: what one has done, the next finds done.
"""

from __future__ import annotations

import random
import threading

from app.errors import StoreUnavailable
from app.executions.store import ExecutionStore

INTERVAL_SECONDS = 2.0


def pause_seconds(next_due_seconds: float | None = None) -> float:
    """How long to wait before the next reap: with jitter, so that processes do not reap in step."""
    pause = random.uniform(0.75, 1.0) * INTERVAL_SECONDS  # noqa: S311  nothing secret about it
    return pause if next_due_seconds is None else max(0.05, min(pause, next_due_seconds))


def start_reaper(store: ExecutionStore, stop: threading.Event | None = None) -> threading.Thread:
    """Starts the thread; it ends with the process, or soon after `stop` is set."""
    stopped = stop or threading.Event()

    def reap_for_ever() -> None:
        next_due: float | None = None
        while not stopped.wait(pause_seconds(next_due)):
            try:
                next_due = store.reap()
            except StoreUnavailable:
                next_due = None  # the store is away: the next beat tries again

    thread = threading.Thread(target=reap_for_ever, name="reaper", daemon=True)
    thread.start()
    return thread
