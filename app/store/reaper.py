"""The reaper's beat on the web side: calls `reap` six times a lease for as long as the process
lives.

Workers reap too. Any number may: what one has done, the next finds done.
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
"""Every two seconds for a lease of twelve. `reap.lua` takes half a lease without a reap for an
outage.
"""


TROUBLE_SECONDS = 60.0
"""What is refused once is refused at each try: it is logged once in so long."""


def pause_seconds(lease_seconds: float, next_due_seconds: float | None = None) -> float:
    """How long to wait before the next reap: with jitter, so that processes do not reap in step."""
    pause = random.uniform(0.75, 1.0) * lease_seconds / REAPS_PER_LEASE  # noqa: S311  nothing secret about it
    return pause if next_due_seconds is None else max(0.05, min(pause, next_due_seconds))


TIDY_SECONDS = 3600.0
"""How often functions of versions that nobody runs any more are looked for."""


class Troubles:
    """Logs what the scripts have reported, the same thing once a minute at most."""

    def __init__(self) -> None:
        self._logged_at: dict[tuple[str, str], float] = {}

    def log(self, reports: Sequence[str]) -> None:
        at = time.monotonic()
        self._logged_at = {
            key: then for key, then in self._logged_at.items() if at - then < TROUBLE_SECONDS
        }
        for report in reports:
            what, id, reason = _read_report(report)
            if (what, id) not in self._logged_at:
                self._logged_at[what, id] = at
                log.error("store_trouble", what=what, id=id, reason=reason)


def _read_report(report: str) -> tuple[str, str, str]:
    """What went wrong, with which execution or key, and why. Anybody may have written there."""
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
    """Starts the thread; it ends with the process, or soon after `stop` is set. `also` is called
    after each reap.
    """
    stopped = stop or threading.Event()
    troubles, tidied_at = Troubles(), -math.inf

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
                next_due = None  # the next beat tries again: nobody else may be there to do it
                if isinstance(error, StoreRefused) or not isinstance(error, StoreUnavailable):
                    log.exception("reap_failed")

    thread = threading.Thread(target=reap_for_ever, name="reaper", daemon=True)
    thread.start()
    return thread
