"""Runs the reaper in a web process: a thread that calls `reap` six times a lease.

`app.web.lifecycle` starts it in each web process, so lost executions are recovered even when no
worker is running. Any number of processes may reap: what one has done, the next one skips.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from app.domain.errors import StoreRefused, StoreUnavailable
from app.store.executions import ExecutionStore
from app.telemetry import logs

log = structlog.get_logger(__name__)

REAPS_PER_LEASE = 6
"""So a process reaps every two seconds if a lease is twelve. If no process reaps for half a lease,
`reap.lua` takes that for an outage.
"""

TROUBLE_SECONDS = 60.0
"""A refused command is refused at each try. The same problem is logged once in this time."""

TIDY_SECONDS = 3600.0
"""How often unused function libraries are looked for."""


def pause_seconds(lease_seconds: float, next_due_seconds: float | None = None) -> float:
    """How long to wait before the next reap: with jitter, so that processes do not reap in step."""
    pause = random.uniform(0.75, 1.0) * lease_seconds / REAPS_PER_LEASE  # noqa: S311  no secret
    # At least 50 ms: a reap with work left is due at once, but must leave time for other calls.
    return pause if next_due_seconds is None else max(0.05, min(pause, next_due_seconds))


class Troubles:
    """Logs the reports of the scripts, the same problem at most once a minute."""

    def __init__(self) -> None:
        self._logged_at: dict[tuple[str, str], float] = {}

    def log(self, reports: Sequence[str]) -> None:
        at = time.monotonic()
        # Forgetting old entries keeps the table small.
        self._logged_at = {
            key: then for key, then in self._logged_at.items() if at - then < TROUBLE_SECONDS
        }
        for report in reports:
            what, id, reason = _read_report(report)
            if (what, id) not in self._logged_at:
                self._logged_at[what, id] = at
                log.error("store_trouble", what=what, id=id, reason=reason)


def _read_report(report: str) -> tuple[str, str, str]:
    """`what`, `id` and `reason` of a report. Another program may have written into the list."""
    try:
        fields = json.loads(report)
        return str(fields["what"]), str(fields["id"]), str(fields["reason"])
    except (ValueError, KeyError, TypeError):
        return "report_unreadable", "exec:troubles", report[:200]


def start_reaper(
    store: ExecutionStore,
    lease_seconds: float,
    stop: threading.Event | None = None,
    also: Callable[[], None] = lambda: None,
) -> threading.Thread:
    """Starts the thread. It ends with the process, or soon after `stop` is set.

    `also` is called after each reap.
    """
    stopped = stop or threading.Event()
    troubles = Troubles()
    tidied_at = -math.inf

    def reap_for_ever() -> None:
        nonlocal tidied_at
        next_due: float | None = None
        while not stopped.wait(pause_seconds(lease_seconds, next_due)):
            logs.flush()
            try:
                next_due = store.reap()
                troubles.log(store.troubles())
                also()
                if time.monotonic() - tidied_at > TIDY_SECONDS:
                    tidied_at = time.monotonic()
                    store.remove_unused_functions()
            except Exception as error:
                # The loop goes on whatever happened: this may be the only reaper.
                next_due = None
                if isinstance(error, StoreRefused) or not isinstance(error, StoreUnavailable):
                    log.exception("reap_failed")

    thread = threading.Thread(target=reap_for_ever, name="reaper", daemon=True)
    thread.start()
    return thread
