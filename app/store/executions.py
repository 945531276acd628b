"""Starts and cancels executions in the store, and runs the reaper, by calling the Lua functions.

`app.services` and `app.store.reaper`, a thread of each web process, use `ExecutionStore`. Its
reading methods are in `execution_reader.py`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import redis

from app.domain.errors import (
    KeyReused,
    NotFound,
    QueueFull,
    TooManyUnfinished,
    TooMuchRetried,
)
from app.domain.execution import NewExecution, Started, Status
from app.process.aside import aside
from app.settings import Settings
from app.store import connection
from app.store.changes import Changes
from app.store.deliveries import Deliveries
from app.store.execution_reader import ExecutionReader
from app.store.feed import Feeds
from app.store.job import new_data, new_fields
from app.store.records import SMALL_BYTES
from app.store.steps import to_datetime

QUEUES = {"thread": "threads", "process": "processes"}
"""The RQ queue for each way to run a flow. One worker takes from one queue."""


class ExecutionStore(ExecutionReader):
    """All calls of the web side: those of `ExecutionReader`, which read, and those that write."""

    def __init__(self, client: redis.Redis, settings: Settings):
        super().__init__(client, settings.lease)
        self._settings = settings
        self.watching = Changes(client.connection_pool).watching
        self.feeds = Feeds(client)
        self.deliveries = Deliveries(self._functions, self._calling)

    @classmethod
    def connect(cls, settings: Settings) -> ExecutionStore:
        """Opens no connection yet: the first call does."""
        return cls(connection.connect(settings), settings)

    def submit(self, new: NewExecution) -> Started:
        """Stores and queues an execution in one step, or finds the one that this idempotency key
        started. Repeating the call gives the same receipt.

        Raises `KeyReused` if the key was used with another body; `TooManyUnfinished`,
        `TooMuchRetried` or `QueueFull` if a limit is reached; `NotFound` if the execution to retry
        has left the store. Then nothing is stored.
        """
        arguments = aside(new.body_bytes, submit_arguments, new, self._settings)
        large = len(arguments[3]) > SMALL_BYTES  # type: ignore[arg-type]
        submit = partial(self._functions, "submit") if large else self._shared["submit"]
        with self._calling():
            word, *receipt = submit(arguments)
            if word == b"copy_first":
                self._copy_steps(str(new.retry_of), new.id)
                word, *receipt = submit(submit_arguments(new, self._settings, copied=True))
        if word == b"reused":
            raise KeyReused
        if word == b"too_many_unfinished":
            raise TooManyUnfinished(self._settings.max_unfinished)
        if word == b"too_much_retried":
            raise TooMuchRetried(self._settings.max_retried_bytes)
        if word == b"queue_full":
            raise QueueFull
        if word == b"source_gone":
            raise NotFound.of_execution(str(new.retry_of))
        # The number of unfinished executions is -1 if it has no limit. A replayed receipt has none.
        id, created, *unfinished = receipt
        count = unfinished[0] if unfinished and unfinished[0] >= 0 else None
        return Started(
            id.decode(), new.type, to_datetime(created), new.retry_of, word == b"replayed", count
        )

    def cancel(self, execution_id: str, tenant: str) -> Status | None:
        """Requests the end, and returns the status right after; None if the tenant has no such
        execution. Repeating the call changes nothing.
        """
        with self._calling():
            status = self._shared["cancel"]([execution_id, tenant])
        return Status(status.decode()) if status else None

    def listen(self, execution_id: str, tenant: str) -> bool:
        """Notes that somebody follows the events of an execution, and tells its worker.

        False if the tenant has no such execution, or it has ended.
        """
        with self._calling():
            return bool(self._shared["listen"]([execution_id, tenant]))

    def reap(self) -> float | None:
        """Does the housekeeping that is due; any process may do it at any time.

        Returns the seconds until the next delayed execution is due, or None if there is none.
        """
        with self._calling():
            next_due = self._functions("reap", reap_arguments(self._settings))
        return next_due / 1_000_000 if next_due >= 0 else None

    def troubles(self) -> list[str]:
        """Takes the scripts' reports (JSON) of refused work and unreadable records, to log them.

        Each report is returned once, to one process.
        """
        with self._calling():
            found: Any = self._client.rpop("exec:troubles", 100)
        return [report.decode(errors="replace") for report in found or ()]

    def remove_unused_functions(self) -> None:
        """Removes the function libraries of versions of the service that no longer run."""
        with self._calling():
            self._functions.remove_unused()

    def _copy_steps(self, source: str, to: str) -> None:
        for part in ("steps", "values"):
            cursor = b"0"
            while (cursor := self._functions("copy", [source, to, part, cursor])) != b"0":
                pass


def submit_arguments(
    new: NewExecution, settings: Settings, *, copied: bool = False
) -> list[str | bytes | int | float]:
    """The arguments of `submit.lua`. `copied`: `copy.lua` has already copied the steps."""
    expires = "" if new.expires_in_seconds is None else int(new.expires_in_seconds * 1_000_000)
    limits = {
        "max_unfinished": settings.max_unfinished,
        "max_length": settings.max_queue_length,
        "max_age": int(settings.max_queue_age * 1_000_000),
        "max_copied": settings.max_retried_bytes if new.retry_of else 0,
    }
    admission: dict[str, str | int] = {"tenant": new.tenant, "queue": new.queue}
    admission |= {"copied": True} if copied else {}
    # A limit of 0 means that there is none, so the script is not given it.
    admission |= {name: limit for name, limit in limits.items() if limit}
    if new.idempotency:
        ttl = int(settings.idempotency_ttl * 1000)
        admission |= {"key": new.idempotency.key, "digest": new.idempotency.digest, "ttl": ttl}
        admission |= {"type": new.type, "retry_of": new.retry_of or ""}
    take_over = (new.retry_of if new.take_over else None) or ""
    return [new.id, expires, take_over, new_data(new), json.dumps(admission), *new_fields(new)]


def reap_arguments(settings: Settings) -> list[str | int]:
    """The arguments of `reap.lua`."""
    retention = [
        int(settings.retention_for(status) * 1_000_000)
        for status in ("completed", "failed", "cancelled")
    ]
    return [int(settings.lease * 1_000_000), *retention, *QUEUES.values()]
