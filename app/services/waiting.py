"""Lets requests wait for the end of an execution, or for its next change.

A request that waits has no connection to the store. `app.store.changes` wakes it, and it reads a
few fields of the record to be sure. The views read the status itself afterwards, so whatever ends a
wait, the answer is what is there then.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Protocol

from app.domain.errors import NotFound, StoreBusy, StoreUnavailable
from app.domain.execution import Glance
from app.store.changes import Change
from app.store.executions import ExecutionStore

TRY_AGAIN_SECONDS = 1.0
"""The wait before the store is read again, after it did not answer."""


class Caller(Protocol):
    """The client of a request. `app.web.client` has the one that gunicorn's requests get."""

    @property
    def stopping(self) -> bool:
        """Whether this process stops, so that the answer should be complete at once."""

    def gone(self) -> bool:
        """Whether the client has closed its side, so it has probably gone."""

    def wake_at_end(self, wake: Callable[[], None]) -> None:
        """Has `wake` called once one of the two is true."""


class Stranger:
    """A caller of whom the server tells nothing."""

    stopping = False

    def gone(self) -> bool:
        return False

    def wake_at_end(self, wake: Callable[[], None]) -> None:
        """Does nothing."""


class Waiting:
    """The requests of one process that wait, at most `most` of them."""

    def __init__(self, store: ExecutionStore, most: int):
        self._store = store
        self._places = threading.BoundedSemaphore(most) if most else None

    def wait(
        self, execution_id: str, tenant: str, seconds: float, caller: Caller, since: int | None
    ) -> None:
        """Returns when the execution has ended; with `since`, when its version differs from that.

        Returns earlier after `seconds`, if the caller has gone, if this process stops, and if all
        places are taken. Raises `NotFound`, and `StoreUnavailable` if the store does not answer at
        the beginning.
        """
        # If many begin to wait at once, some read later: `follow` reads, too.
        with contextlib.suppress(StoreBusy):
            glance = self._store.glance(execution_id, tenant)
            if glance is None:
                raise NotFound.of_execution(execution_id)
            if _is_heard(glance, since):
                return
        if seconds <= 0 or self._places is None:
            return
        if self._places.acquire(blocking=False):
            try:
                self.follow(execution_id, tenant, seconds, caller, since)
            finally:
                self._places.release()

    def follow(
        self,
        execution_id: str,
        tenant: str,
        seconds: float,
        caller: Caller | None = None,
        since: int | None = None,
    ) -> None:
        """Like `wait`, without a place and a first read. If the store does not answer, the wait
        goes on.
        """
        caller, until, must_read = caller or Stranger(), time.monotonic() + seconds, False
        with self._store.watching(execution_id, final_only=since is None) as watch:
            caller.wake_at_end(watch.wake)
            while not (caller.stopping or caller.gone()):
                if (left := until - time.monotonic()) <= 0:
                    return
                changes = watch.wait(min(left, TRY_AGAIN_SECONDS) if must_read else left)
                if any(_tells(change, since) for change in changes):
                    return
                if must_read or watch.must_read:
                    must_read = True
                    with contextlib.suppress(StoreUnavailable):
                        glance = self._store.glance(execution_id, tenant)
                        if glance is None or _is_heard(glance, since):
                            return
                        must_read = False


def _is_heard(glance: Glance, since: int | None) -> bool:
    return glance.ended or (since is not None and glance.version != since)


def _tells(change: Change, since: int | None) -> bool:
    # The first read may have shown a change whose message comes later.
    return change.final or (since is not None and change.first > since)
