"""Logs outages of the store without filling the log.

The worker's loops, `writer` and `main` report failed and successful calls to an `OutageLog`.
"""

from __future__ import annotations

import time
from typing import Any

import structlog

REPEAT_SECONDS = 10.0
"""The time between two log lines during an outage."""

RETRY_STORE_SECONDS = 0.5
"""The wait before the next try of a call that failed."""

log = structlog.get_logger(__name__)


class OutageLog:
    """Logs the start of an outage, a reminder every `REPEAT_SECONDS`, and its end with its length.

    Several loops report to one log. The outage is over when none of their calls fails any more.
    `names` go into every line.
    """

    def __init__(self, **names: Any):
        self._log = log.bind(**names)
        self._refused: set[str] = set()
        self._began_at = 0.0
        self._logged_at = 0.0

    def refused(self, what: str, error: BaseException) -> None:
        """Notes that the store did not do `what`, the name of a kind of call."""
        at = time.monotonic()
        if not self._refused:
            self._began_at, self._logged_at = at, at - REPEAT_SECONDS
        self._refused.add(what)
        if at - self._logged_at >= REPEAT_SECONDS:
            self._logged_at = at
            seconds = round(at - self._began_at, 1)
            self._log.warning(
                "store_unavailable", what=what, seconds=seconds, error=str(error.__cause__ or error)
            )

    def done(self, what: str) -> bool:
        """Notes that the store did it, or that it is no longer needed. Returns whether it was
        refused before.
        """
        if what not in self._refused:
            return False
        self._refused.remove(what)
        if not self._refused:
            self._log.warning("store_back", seconds=round(time.monotonic() - self._began_at, 1))
        return True
