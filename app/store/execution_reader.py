"""Reads executions from the store: one by id, and the receipts of earlier starts.

The services call it for every GET, through `ExecutionStore`, which adds the calls that write.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import redis

from app.domain.errors import StoreUnavailable
from app.domain.events import EventPage
from app.domain.execution import (
    Execution,
    Glance,
    Idempotency,
    Include,
    Phase,
    Started,
    Status,
    TargetType,
    WaitingFor,
)
from app.domain.payload import read_call
from app.process.aside import aside
from app.store import connection, events, records
from app.store.execution_lists import ExecutionLists
from app.store.functions import Functions
from app.store.job import LEASES_KEY, data_key, job_key, outputs_key, step_outputs_key, steps_key
from app.store.job_reader import (
    GLANCE_FIELDS,
    RECORD_FIELDS,
    has_untold_end,
    read_glance,
    read_record,
)
from app.store.large_texts import LargeTexts
from app.store.records import SMALL_BYTES, UNREADABLE_ERRORS, Record
from app.store.steps import read_moment, to_datetime, with_steps
from app.store.together import Function, Together, checked
from app.store.waiting import waiting_for

REQUEST_COUNTS = "exec:requests"
"""The beginning of the keys in which `api/limits.py` counts requests."""

REASON_SECONDS = 1.0
"""How long one process repeats what a pending execution waits for. To find it out takes a second
call, and time that grows with the queue: many who poll at once must not pay for it each time.
"""

MOST_REASONS = 10_000

UNREADABLE_VERSION = -1
"""No client can know it, so whoever asks reads the execution, which ends it as failed."""

MICROSECOND = timedelta(microseconds=1)

TOO_LARGE = 1
"""The answer of `status.lua` in place of a value that is too large for one call."""

MOST_LARGE = 8
"""How many large executions one process holds at once; readers of the same one share it.

With the default limit of 16 MiB they take 128 MiB at most, or 256 MiB if all of them are steps,
which are not shared.
"""


class ExecutionReader:
    """Reads executions. Safe to use from many threads; every method raises `StoreUnavailable`.

    A method is one round trip, with these exceptions: a large execution takes two, and so does a
    pending one, which says what it waits for. A very large one is read in pieces, because a single
    call for it would hold up all other calls of the store. `lists` has the pages of executions.

    Small and quick calls are sent together with those of other requests (`together.py`). After a
    call that did not reach the store, calls fail at once for a second (see `Breaker`).
    """

    def __init__(self, client: redis.Redis, lease_seconds: float):
        self._client = client
        self._lease = timedelta(seconds=lease_seconds)
        self._together = Together(client.connection_pool)
        self._shared = {
            name: Function(self._together, name)
            for name in ("submit", "cancel", "waiting", "listen", "log")
        }
        self._functions = Functions(client)
        self._calling = connection.Breaker().calling
        self.lists = ExecutionLists(client, self._together, self._calling)
        self._large = LargeTexts(MOST_LARGE)
        self._reasons: dict[tuple[str, int, Phase | None], tuple[float, WaitingFor]] = {}

    @property
    def connection_pool(self) -> Any:
        """For other users of the same store in this process; they make their calls in `guard`."""
        return self._client.connection_pool

    def guard(self) -> AbstractContextManager[None]:
        """Calls inside are answered in time or raise `StoreUnavailable`, like the methods here."""
        return self._calling()

    def recall(self, tenant: str, idempotency: Idempotency) -> Started | None:
        """The receipt of an earlier start or retry with this key and body, or None."""
        names = ("id", "type", "created", "retry_of", "digest")
        key = f"exec:idempotency:{tenant}:{idempotency.key}"
        with self._calling():
            [kept] = map(checked, self._together.execute(("HMGET", key, *names)))
        created = kept.pop(2)
        id, type, retry_of, digest = (
            value.decode(errors="replace") if value else None for value in kept
        )
        created_at = read_moment(created)
        if not id or type not in set(TargetType) or not created_at or digest != idempotency.digest:
            return None
        return Started(id, TargetType(type), created_at, retry_of or None, replayed=True)

    def get(
        self,
        execution_id: str,
        tenant: str,
        include: Include = Include.STATUS,
        held: ExitStack | None = None,
    ) -> Execution | None:
        """The execution with its outputs and what `include` asks for; None if the tenant has no
        such execution.

        Large outputs stay in memory until `held` is closed. Raises `TooManyLarge` if this process
        already holds as many of them as it may.
        """
        execution = self._get(execution_id, tenant, include, held)
        if (
            execution is None
            or execution.status is not Status.COMPLETED
            or execution.outputs is not None
        ):
            return execution and self._with_present(execution)
        # It completed, but its outputs are gone or unreadable: the script ends it as failed.
        with suppress(StoreUnavailable), self._calling():
            self._functions("quarantine", [execution_id, tenant])
            execution = self._with_steps(execution_id, tenant, include) or execution
        if execution.status.ended and execution.failure:
            return execution
        return records.unreadable(execution)

    def glance(self, execution_id: str, tenant: str) -> Glance | None:
        """Whether the execution has ended, and its version; None if the tenant has no such
        execution. It reads a few short fields.
        """
        with self._calling():
            [values] = self._together.execute(("HMGET", job_key(execution_id), *GLANCE_FIELDS))
        if isinstance(values, redis.ResponseError):
            return None  # a key of another type holds no record
        record = records.present(dict(zip(GLANCE_FIELDS, values, strict=True)))
        if record.get("tenant") != tenant.encode():
            return None
        with suppress(*UNREADABLE_ERRORS):
            return read_glance(record)
        return Glance(UNREADABLE_VERSION, ended=True, created_at=datetime.now(UTC))

    def call(self, execution_id: str, held: ExitStack | None = None) -> dict[str, Any] | None:
        """The request of the start: `type`, `target_id`, `inputs`, `config`; None if it is gone.

        Raises `ValueError` if it is unreadable, and `zlib.error` if the bytes are damaged. With
        `held`, a large one takes the place of a large text, and raises `TooManyLarge` if all are
        taken.
        """
        key = data_key(execution_id)
        if held is not None and records.is_large(self._piece(key, 0, SMALL_BYTES)):
            self._large.take_place(held)
        data = self._text(key)
        return aside(len(data), read_call, data) if data is not None else None

    def events(
        self, execution_id: str, tenant: str, after: int = 0, count: int = 1000
    ) -> EventPage | None:
        """Up to `count` events with numbers above `after`; None if the tenant has no such
        execution.
        """
        arguments = [execution_id, tenant, after, count, *events.LOG_FIELDS]
        for is_mended in (False, True):
            with self._calling():
                found: Any = self._shared["log"](arguments)
            if not found:
                return None
            record = dict(zip(events.LOG_FIELDS, found[0], strict=True))
            if is_mended or not records.is_unreadable(execution_id, tenant, record):
                break
            with suppress(StoreUnavailable), self._calling():
                self._functions("mend", [execution_id])
        execution = records.read_anyway(execution_id, tenant, record)
        if execution is None:
            return None
        untold = has_untold_end(records.present(record), execution.status)
        return events.page_of(execution, after, count, found[1:], has_untold_end=untold)

    def _get(
        self, execution_id: str, tenant: str, include: Include, held: ExitStack | None
    ) -> Execution | None:
        record: Record = {}
        if include is Include.STATUS:
            record, outputs, lease_ends = self._look(execution_id)
            if record.get("tenant") != tenant.encode():
                return None
            if not records.broke_off(record) and not records.is_large(outputs):
                fields = records.present({**record, "outputs": outputs})
                with suppress(*UNREADABLE_ERRORS):
                    return self._with_heartbeat(read_record(execution_id, fields), lease_ends)
                return self._mended(execution_id, tenant, include)
        with ExitStack() as until_read:
            if record and not records.broke_off(record):
                return self._with_large_outputs(execution_id, tenant, record, held or until_read)
            self._large.take_place(held or until_read)
            return self._with_steps(execution_id, tenant, include)

    def _with_present(self, execution: Execution) -> Execution:
        """Adds what is not in the record: what a pending execution waits for, and when the worker
        of a running one last reported.
        """
        if execution.status is Status.PENDING:
            return replace(execution, waiting_for=self._reason(execution))
        if execution.status is Status.RUNNING and execution.last_heartbeat_at is None:
            with self._calling():
                [ends] = self._together.execute(("ZSCORE", LEASES_KEY, execution.id))
            return self._with_heartbeat(execution, ends)
        return execution

    def _reason(self, execution: Execution) -> WaitingFor | None:
        """What a pending execution waits for, as it was at most `REASON_SECONDS` ago; None if it
        has started meanwhile.
        """
        now = time.monotonic()
        # Another attempt, or another phase, has another reason.
        key = (execution.id, execution.attempt, execution.phase)
        kept = self._reasons.get(key)
        if kept is not None and now - kept[0] < REASON_SECONDS:
            return kept[1]
        with self._calling():
            found = self._shared["waiting"]([execution.id, self._lease // MICROSECOND])
        if not found:
            return None
        if len(self._reasons) >= MOST_REASONS:
            self._reasons.clear()
        reason = waiting_for(found)
        self._reasons[key] = (now, reason)
        return reason

    def _with_heartbeat(self, execution: Execution, lease_ends: Any) -> Execution:
        """Adds when the lease was extended last, which its end says: `lease_ends` is a score."""
        if execution.status is not Status.RUNNING or not isinstance(lease_ends, bytes | float):
            return execution  # without a lease it has just ended
        started_at = execution.started_at or execution.created_at
        with suppress(ValueError, OverflowError):
            beaten_at = to_datetime(float(lease_ends)) - self._lease
            return replace(execution, last_heartbeat_at=max(beaten_at, started_at))
        return execution

    def _look(self, execution_id: str) -> tuple[Record, bytes, Any]:
        """The record, the first bytes of its outputs and the end of its lease, without a script.

        Plain commands are enough: the outputs are written before the record says `finished`,
        and never change after that.
        """
        with self._calling():
            values, outputs, lease_ends = self._together.execute(
                ("HMGET", job_key(execution_id), *RECORD_FIELDS),
                ("GETRANGE", outputs_key(execution_id), 0, SMALL_BYTES),
                ("ZSCORE", LEASES_KEY, execution_id),
            )
            if isinstance(values, redis.ResponseError):
                return {}, b"", None  # a key of another type holds no record
            record = dict(zip(RECORD_FIELDS, values, strict=True))
            # `outputs` is an error if the key has another type.
            readable = record["status"] == b"finished" and isinstance(outputs, bytes)
            return record, outputs if readable else b"", lease_ends

    def _with_large_outputs(
        self, execution_id: str, tenant: str, record: Record, held: ExitStack
    ) -> Execution | None:
        key = outputs_key(execution_id)
        text = self._large.get(key, lambda start, end: self._piece(key, start, end), held)
        if text:
            execution = records.read(execution_id, tenant, {**record, "outputs": b"{}"})
            return execution and replace(execution, outputs=text)
        # They are not packed: an older version wrote them, or another program.
        self._large.take_place(held)
        outputs = self._text(key)
        fields = {**record, "outputs": outputs}
        return aside(len(outputs or b""), records.read, execution_id, tenant, fields)

    def _mended(self, execution_id: str, tenant: str, include: Include) -> Execution | None:
        """Lets the store end an unreadable execution as failed, if it takes writes; reads it."""
        with suppress(StoreUnavailable), self._calling():
            self._functions("mend", [execution_id])
        return self._with_steps(execution_id, tenant, include, mended=True)

    def _with_steps(
        self, execution_id: str, tenant: str, include: Include, *, mended: bool = False
    ) -> Execution | None:
        with self._calling():
            found: Any = self._functions("status", [execution_id, tenant, include, *RECORD_FIELDS])
        if not found:
            return None
        values, outputs, steps, step_outputs = found
        if outputs == TOO_LARGE:
            outputs = self._text(outputs_key(execution_id))
        record = {**dict(zip(RECORD_FIELDS, values, strict=True)), "outputs": outputs}
        try:
            execution = aside(len(outputs or b""), records.read, execution_id, tenant, record)
        except UNREADABLE_ERRORS:
            if not mended:
                return self._mended(execution_id, tenant, include)
            return records.unreadable(records.outline(execution_id, record))
        if not execution or not steps:
            return execution
        return with_steps(
            execution,
            self._hash(steps, steps_key(execution_id)),
            self._hash(step_outputs, step_outputs_key(execution_id)),
        )

    def _piece(self, key: str, start: int, end: int) -> bytes:
        """A piece of a text; empty after its end, and if the key has another type."""
        with self._calling():
            try:
                return cast(bytes, self._client.getrange(key, start, end))
            except redis.ResponseError as error:
                if "WRONGTYPE" in str(error):
                    return b""
                raise

    def _text(self, key: str) -> bytes | None:
        """A text; None if there is none, and empty if the key has another type."""
        with self._calling():
            try:
                return cast("bytes | None", self._client.get(key))
            except redis.ResponseError as error:
                if "WRONGTYPE" in str(error):
                    return b""
                raise

    def _hash(self, found: list[bytes] | int, key: str) -> dict[str, bytes]:
        """A hash, from a script's `[name, value, ...]`; a large one is read here, in pieces."""
        if found == TOO_LARGE:
            with self._calling():
                pairs = dict(self._client.hscan_iter(key, count=500))
        else:
            pairs = dict(zip(found[::2], found[1::2], strict=True))  # type: ignore[index]
        return {name.decode(errors="replace"): value for name, value in pairs.items()}
