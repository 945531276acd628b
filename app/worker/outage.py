"""Outages of the store: tells one from being cut off, and tells people of it without filling the
log.
"""

from __future__ import annotations

import time
from typing import Any

import redis
import structlog

from app.domain.errors import StoreFull

REPEAT_SECONDS = 10.0

RETRY_STORE_SECONDS = 0.5
"""The wait before a store that did not take a call is asked again."""

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
    """True where the store itself said, or its machine did, that it takes no writes from anybody
    for now.

    Nothing listens at its address, it closed the connection, it is loading, read-only or full: then
    no execution can be given to somebody else meanwhile, and flows may go on. Silence (a timeout,
    no route) says nothing: the store may be well, and only this worker cut off.
    """
    while error is not None:
        if isinstance(error, _SERVES_NOBODY):
            return True
        if isinstance(error, redis.ConnectionError) and "Connection closed by server" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def refuses_everybody(error: BaseException) -> bool:
    """True if the store answered that it takes no such call from anybody for now: it is read-only
    or full, has no replicas, or its ACL forbids it. Then no single call is to blame. (A
    `StoreRefused` is about one call.)
    """
    return isinstance(error.__cause__, redis.ResponseError)


class OutageLog:
    """Says that the store is away when it begins, then every ten seconds, and for how long it was.

    Several loops report to one. The outage is over when none of them is refused any more.
    """

    def __init__(self, **names: Any):
        self._log = log.bind(**names)
        self._refused: set[str] = set()
        self._began_at = self._said_at = 0.0

    def refused(self, what: str, error: BaseException) -> None:
        """The store did not do `what`."""
        at = time.monotonic()
        if not self._refused:
            self._began_at, self._said_at = at, at - REPEAT_SECONDS
        self._refused.add(what)
        if at - self._said_at >= REPEAT_SECONDS:
            self._said_at = at
            seconds = round(at - self._began_at, 1)
            self._log.warning(
                "store_unavailable", what=what, seconds=seconds, error=str(error.__cause__ or error)
            )

    def done(self, what: str) -> bool:
        """The store did it, or it is not wanted any more. True if it was refused before."""
        if what not in self._refused:
            return False
        self._refused.remove(what)
        if not self._refused:
            self._log.warning("store_back", seconds=round(time.monotonic() - self._began_at, 1))
        return True
