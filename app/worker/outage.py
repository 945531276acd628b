"""Finds out what kind of outage the store has, and logs it without filling the log.

The worker's loops, `writer` and `main` report failed and successful calls to an `OutageLog`.
"""

from __future__ import annotations

import time
from typing import Any

import redis
import structlog

from app.domain.errors import StoreFull

REPEAT_SECONDS = 10.0
"""The time between two log lines during an outage."""

RETRY_STORE_SECONDS = 0.5
"""The wait before the next try of a call that failed."""

log = structlog.get_logger(__name__)

_SERVES_NOBODY = (
    ConnectionRefusedError,
    ConnectionResetError,
    FileNotFoundError,
    redis.ReadOnlyError,
    redis.BusyLoadingError,
    StoreFull,
)


def nobody_can_be_served(error: BaseException | None) -> bool:
    """Returns True if the error proves that the store takes no writes from any client now.

    Nothing listens at its address, it closed the connection, or it is loading, read-only or full.
    Then no other worker can claim an execution, and flows may continue. Silence (a timeout, no
    route) proves nothing: perhaps the store is well, and only this worker is cut off.
    """
    while error is not None:
        if isinstance(error, _SERVES_NOBODY):
            return True
        if isinstance(error, redis.ConnectionError) and "Connection closed by server" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def refuses_everybody(error: BaseException) -> bool:
    """Returns True if the store answered that it takes no such call from any client now: it is
    read-only or full, has too few replicas, or its ACL forbids the call. Then no single call is to
    blame. (A `StoreRefused` is about one call.)
    """
    return isinstance(error.__cause__, redis.ResponseError)


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
