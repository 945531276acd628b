"""The executions in the store, as the web side sees them: calls the scripts, reads records and
pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import redis

from app.domain.errors import (
    KeyReused,
    NotFound,
    QueueFull,
    StoreUnavailable,
    TooManyUnfinished,
    TooMuchRetried,
)
from app.domain.execution import (
    Execution,
    Failure,
    Idempotency,
    Include,
    NewExecution,
    Started,
    Status,
    TargetType,
)
from app.domain.payload import read_call, unpacks_beyond
from app.process.aside import aside
from app.settings import Settings
from app.store import connection
from app.store.ends import Ends
from app.store.functions import Functions
from app.store.job import (
    RECORD_FIELDS,
    SUMMARY_FIELDS,
    data_key,
    job_key,
    new_data,
    new_fields,
    outputs_key,
    read_record,
    read_time,
)
from app.store.large_texts import LargeTexts
from app.store.steps import read_moment, to_datetime, with_steps
from app.store.together import Function, Together, checked

IN_PIECES = 1
"""What `status.lua` answers in place of what is too large for one call."""

QUEUES = {"thread": "threads", "process": "processes"}
"""The RQ queue for each way to run; one worker listens on one."""


SMALL_BYTES = 64 * 1024
"""What is larger travels on a connection of its own, beside those that all calls share."""

SMALL_TEXT_BYTES = 1024 * 1024
"""Outputs that are longer than this as text are large, however small they are packed."""

MOST_LARGE = 8
"""Executions that may be large, held at once by one process, each for all its readers: with the
default of 16 MiB, 128 MiB hold them all (256 MiB where all are those of steps, which are not
shared).
"""

Record = dict[str, bytes | None]

UNREADABLE_ERRORS = (KeyError, ValueError, OverflowError)
"""What `read_record` raises for a record that makes no sense."""


class ExecutionStore:
    """Safe to use from many threads. Every method is one round trip, and raises `StoreUnavailable`.
    (A page that finds records gone is two, and so is what is large; what is so large that one call
    for it would hold up others is read and copied in pieces.)

    Calls that are small and quick are sent together with those of other requests (`together.py`).
    After a call that found no store, calls fail at once for a second (see `Breaker`).
    """

    def __init__(self, client: redis.Redis, settings: Settings):
        self._client, self._settings = client, settings
        self._together = Together(client.connection_pool)
        self._shared = {
            name: Function(self._together, name) for name in ("submit", "cancel", "page")
        }
        self._functions = Functions(client)
        self._calling = connection.Breaker().calling
        self._large = LargeTexts(MOST_LARGE)
        self.watching = Ends(client).watching

    @classmethod
    def connect(cls, settings: Settings) -> ExecutionStore:
        """Opens no connection yet: the first call does."""
        return cls(connection.connect(settings), settings)

    @property
    def connection_pool(self) -> Any:
        """For others of this process who use the same store, each call of theirs in `guard`."""
        return self._client.connection_pool

    def guard(self) -> AbstractContextManager[None]:
        """Calls in it are answered in time or raise `StoreUnavailable`, like the methods here."""
        return self._calling()

    def submit(self, new: NewExecution) -> Started:
        """Stores and queues an execution in one step, or finds the one that this idempotency key
        started.

        Raises `KeyReused` where that was started with another body, `TooManyUnfinished`,
        `TooMuchRetried` and `QueueFull` where a limit is reached, `NotFound` where what a retry is
        to take over has left; then nothing is stored.
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
        id, created, *unfinished = receipt
        count = unfinished[0] if unfinished and unfinished[0] >= 0 else None
        return Started(
            id.decode(), new.type, to_datetime(created), new.retry_of, word == b"replayed", count
        )

    def recall(self, tenant: str, idempotency: Idempotency) -> Started | None:
        """The receipt of an earlier start or retry with this key and body, if there was one."""
        names = ("id", "type", "created", "retry_of", "digest")
        with self._calling():
            [kept] = map(
                checked,
                self._together.execute(
                    ("HMGET", f"exec:idempotency:{tenant}:{idempotency.key}", *names)
                ),
            )
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
        """The execution with its outputs, and what `include` says; None if the tenant has none of
        that id.

        Raises `TooManyLarge`, as the service's `get` does.
        """
        execution = self._get(execution_id, tenant, include, held)
        if (
            execution is None
            or execution.status is not Status.COMPLETED
            or execution.outputs is not None
        ):
            return execution
        with suppress(StoreUnavailable), self._calling():
            self._functions("quarantine", [execution_id, tenant])
            execution = self._with_steps(execution_id, tenant, include) or execution
        return execution if execution.status.ended and execution.failure else _unreadable(execution)

    def _get(
        self, execution_id: str, tenant: str, include: Include, held: ExitStack | None = None
    ) -> Execution | None:
        record: Record = {}
        if include is Include.STATUS:
            record, outputs = self._look(execution_id)
            if record.get("tenant") != tenant.encode():
                return None
            if not _broke_off(record) and not _is_large(outputs):
                with suppress(*UNREADABLE_ERRORS):
                    return read_record(execution_id, _present({**record, "outputs": outputs}))
                return self._mended(execution_id, tenant, include)
        with ExitStack() as until_read:
            if record and not _broke_off(record):
                return self._with_large_outputs(execution_id, tenant, record, held or until_read)
            self._large.take_place(held or until_read)
            return self._with_steps(execution_id, tenant, include)

    def _with_large_outputs(
        self, execution_id: str, tenant: str, record: Record, held: ExitStack
    ) -> Execution | None:
        key = outputs_key(execution_id)
        text = self._large.get(key, lambda start, end: self._range(key, start, end), held)
        if text:
            execution = _read(execution_id, tenant, {**record, "outputs": b"{}"})
            return execution and replace(execution, outputs=text)
        self._large.take_place(held)
        packed = self._whole(key)
        return aside(len(packed or b""), _read, execution_id, tenant, {**record, "outputs": packed})

    def _look(self, execution_id: str) -> tuple[Record, bytes]:
        """The record, and the beginning of its outputs, without a script: these are there before it
        says that it completed, and stay as they are.
        """
        with self._calling():
            values, outputs = self._together.execute(
                ("HMGET", job_key(execution_id), *RECORD_FIELDS),
                ("GETRANGE", outputs_key(execution_id), 0, SMALL_BYTES),
            )
            if isinstance(values, redis.ResponseError):
                return {}, b""  # what is no hash (anybody may have written there) holds nothing
            record = dict(zip(RECORD_FIELDS, values, strict=True))
            readable = record["status"] == b"finished" and isinstance(
                outputs, bytes
            )  # not somebody else's data
            return record, outputs if readable else b""

    def _mended(self, execution_id: str, tenant: str, include: Include) -> Execution | None:
        """One whose record could not be read: the store ends what makes no sense, unless it takes
        no writes.
        """
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
        record = dict(zip(RECORD_FIELDS, values, strict=True))
        key = job_key(execution_id)
        record["outputs"] = outputs = (
            self._whole(outputs_key(execution_id)) if outputs == IN_PIECES else outputs
        )
        try:
            execution = aside(len(outputs or b""), _read, execution_id, tenant, record)
        except UNREADABLE_ERRORS:
            if not mended:
                return self._mended(execution_id, tenant, include)
            return _unreadable(_outline(execution_id, _present(record)))
        if not execution or not steps:
            return execution
        return with_steps(
            execution, self._hash(steps, f"{key}:steps"), self._hash(step_outputs, f"{key}:values")
        )

    def call(self, execution_id: str) -> dict[str, Any] | None:
        """What was asked of an execution: `type`, `target_id`, `inputs`, `config`; None where it is
        gone.

        Raises `ValueError` where it makes no sense.
        """
        data = self._whole(data_key(execution_id))
        return read_call(data) if data is not None else None

    def page(
        self, tenant: str, keys: Sequence[str], offset: int, count: int, descending: bool
    ) -> tuple[list[Execution], int]:
        """One page of what these index keys hold, and their exact total."""
        order = "desc" if descending else "asc"
        arguments = [offset, count, order, len(keys), *keys, *SUMMARY_FIELDS]
        with self._calling():
            total, rows = self._shared["page"](arguments)
        read = zip(rows, _rows(rows), strict=True)
        if wrong := [row[0] for row, (id, fields) in read if _is_unreadable(id, tenant, fields)]:
            with suppress(StoreUnavailable), self._calling():
                self._functions("mend", wrong)
                total, rows = self._shared["page"](arguments)  # they may be in another list now
        found = {id: _read_anyway(id, tenant, fields) for id, fields in _rows(rows)}
        gone = [id for id, execution in found.items() if execution is None]
        if gone:
            self._heal(tenant, keys, gone)
        return [execution for execution in found.values() if execution is not None], total - len(
            gone
        )

    def cancel(self, execution_id: str, tenant: str) -> Status | None:
        """Asks for the end; the status right after, None where the tenant has no such execution."""
        with self._calling():
            status = self._shared["cancel"]([execution_id, tenant])
        return Status(status.decode()) if status else None

    def reap(self) -> float | None:
        """Moves on whatever nobody else moves on; seconds until the next delay is over, if one is
        known.
        """
        with self._calling():
            next_due = self._functions("reap", reap_arguments(self._settings))
        return next_due / 1_000_000 if next_due >= 0 else None

    def troubles(self) -> list[str]:
        """What the scripts could not do, and whose records make no sense, as JSON: each once, for
        the log.
        """
        with self._calling():
            found: Any = self._client.rpop("exec:troubles", 100)
        return [each.decode(errors="replace") for each in found or ()]

    def remove_unused_functions(self) -> None:
        """What versions of the service have left in the store that nobody runs any more."""
        with self._calling():
            self._functions.remove_unused()

    def _copy_steps(self, source: str, to: str) -> None:
        for part in ("steps", "values"):
            cursor = b"0"
            while (cursor := self._functions("copy", [source, to, part, cursor])) != b"0":
                pass

    def _range(self, key: str, start: int, end: int) -> bytes:
        """A piece of a text; empty past its end, and where somebody else wrote something else
        there.
        """
        with self._calling():
            try:
                return cast(bytes, self._client.getrange(key, start, end))
            except redis.ResponseError as error:
                if "WRONGTYPE" in str(error):
                    return b""
                raise

    def _whole(self, key: str) -> bytes | None:
        """A text; None where there is none, and empty where somebody else wrote something else
        there.
        """
        with self._calling():
            try:
                return cast("bytes | None", self._client.get(key))
            except redis.ResponseError as error:
                if "WRONGTYPE" in str(error):
                    return b""
                raise

    def _hash(self, found: list[bytes] | int, key: str) -> dict[str, bytes]:
        """What a script has read of a hash, as `name, value, ...`; or all of a large one, in
        pieces.
        """
        if found == IN_PIECES:
            with self._calling():
                pairs = dict(self._client.hscan_iter(key, count=500))
        else:
            pairs = dict(zip(found[::2], found[1::2], strict=True))  # type: ignore[index]
        return {name.decode(errors="replace"): value for name, value in pairs.items()}

    def _heal(self, tenant: str, keys: Sequence[str], gone: Sequence[str]) -> None:
        """Takes ids whose record has vanished (deleted by hand) out of the lists they were found
        in.
        """
        with self._calling(), self._client.pipeline(transaction=False) as pipe:
            for key in {*keys, *index_keys(tenant)}:
                pipe.zrem(key, *gone)
            pipe.execute()


def _rows(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Record]]:
    """The rows of a page by id. There are no values where the key holds something else than a
    record.
    """
    for id, *values in rows:
        yield (
            id.decode(errors="surrogateescape"),
            dict(zip(SUMMARY_FIELDS, values, strict=bool(values))),
        )


def _read(execution_id: str, tenant: str, fields: Record) -> Execution | None:
    """None where there is no record, and where it is another tenant's. Raises `UNREADABLE_ERRORS`."""
    record = _present(fields)
    return read_record(execution_id, record) if record.get("tenant") == tenant.encode() else None


def _is_unreadable(execution_id: str, tenant: str, fields: Record) -> bool:
    try:
        _read(execution_id, tenant, fields)
    except UNREADABLE_ERRORS:
        return True
    return False


def _read_anyway(execution_id: str, tenant: str, fields: Record) -> Execution | None:
    """Also a record that makes no sense, as a failed execution."""
    try:
        return _read(execution_id, tenant, fields)
    except UNREADABLE_ERRORS:
        return _unreadable(_outline(execution_id, _present(fields)))


def _unreadable(execution: Execution) -> Execution:
    """A record that makes no sense, and that the store did not let the scripts quarantine (it is
    read-only, say).
    """
    details = {f"{execution.type}_id": execution.target_id}
    failure = Failure("RecordUnreadable", "Its record in the store makes no sense.", details)
    return replace(execution, status=Status.FAILED, phase=None, failure=failure)


def _outline(execution_id: str, record: dict[str, bytes]) -> Execution:
    """As much as every execution has."""
    created_at = to_datetime(0)
    with suppress(*UNREADABLE_ERRORS):
        created_at = read_time(record["created_at"])
    return Execution(
        id=execution_id,
        type=TargetType.PIPELINE
        if record.get("type") == TargetType.PIPELINE.encode()
        else TargetType.AGENT,
        target_id=record.get("target", b"unknown").decode(errors="replace"),
        status=Status.FAILED,
        phase=None,
        created_at=created_at,
    )


def _broke_off(record: dict[str, bytes | None]) -> bool:
    """A pipeline that did not complete shows what its finished steps have put out, which may be
    large.
    """
    return record.get("type") == b"pipeline" and record.get("status") in (b"failed", b"canceled")


def _is_large(outputs: bytes) -> bool:
    """Whether outputs are large as they are stored, or become so when they are unpacked."""
    return len(outputs) > SMALL_BYTES or unpacks_beyond(outputs, SMALL_TEXT_BYTES)


def _present(fields: Record) -> dict[str, bytes]:
    """The fields that are there."""
    return {name: value for name, value in fields.items() if value}


def index_keys(
    tenant: str,
    status: Status | None = None,
    type: TargetType | None = None,
    target_id: str | None = None,
) -> list[str]:
    """The sorted sets that hold the ids of exactly these executions: one for each status and type."""
    scope = "" if target_id is None else f":{target_id}"
    statuses, types = [status] if status else list(Status), [type] if type else list(TargetType)
    return [
        f"exec:index:{tenant}:{one.value}:{kind.value}{scope}" for one in statuses for kind in types
    ]


def submit_arguments(
    new: NewExecution, settings: Settings, *, copied: bool = False
) -> list[str | bytes | int | float]:
    """The arguments of `submit.lua`."""
    expires = "" if new.expires_in_seconds is None else int(new.expires_in_seconds * 1_000_000)
    limits = {
        "max_unfinished": settings.max_unfinished,
        "max_length": settings.max_queue_length,
        "max_age": int(settings.max_queue_age * 1_000_000),
        "max_copied": settings.max_retried_bytes if new.retry_of else 0,
    }
    asked: dict[str, str | int] = {"tenant": new.tenant, "queue": new.queue}
    asked |= {"copied": True} if copied else {}
    asked |= {name: limit for name, limit in limits.items() if limit}
    if new.idempotency:
        ttl = int(settings.idempotency_ttl * 1000)
        asked |= {"key": new.idempotency.key, "digest": new.idempotency.digest, "ttl": ttl}
        asked |= {"type": new.type, "retry_of": new.retry_of or ""}
    take_over = (new.retry_of if new.take_over else None) or ""
    return [new.id, expires, take_over, new_data(new), json.dumps(asked), *new_fields(new)]


def reap_arguments(settings: Settings) -> list[str | int]:
    """The arguments of `reap.lua`."""
    retention = [
        int(settings.retention_for(status) * 1_000_000)
        for status in ("completed", "failed", "cancelled")
    ]
    return [int(settings.lease * 1_000_000), *retention, *QUEUES.values()]
