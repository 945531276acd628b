"""Turns the records of executions, as the store returns them, into `Execution` values.

`ExecutionReader` calls these functions. A record can be unreadable, because other programs can
write to the store; then it is shown as a failed execution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from app.domain.execution import Execution, Failure, Status, TargetType
from app.domain.payload import unpacks_beyond
from app.store.job_reader import read_record, read_time
from app.store.steps import to_datetime

SMALL_BYTES = 64 * 1024
"""Larger values travel on a connection of their own, so that the shared ones stay quick."""

SMALL_TEXT_BYTES = 1024 * 1024
"""Outputs that unpack to more than this are large, however few bytes they take when packed."""

Record = dict[str, bytes | None]
"""The fields of a record by name; None for one that is missing."""

UNREADABLE_ERRORS = (KeyError, ValueError, OverflowError)
"""What `read_record` raises for an unreadable record."""


def rows_of(rows: Sequence[Sequence[Any]], fields: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """The rows of a page as `id, record`. The record is empty if its key holds no hash."""
    for id, *values in rows:
        yield (
            id.decode(errors="surrogateescape"),
            dict(zip(fields, values, strict=bool(values))),
        )


def read(execution_id: str, tenant: str, fields: Record) -> Execution | None:
    """None if there is no record or another tenant owns it. Raises `UNREADABLE_ERRORS`."""
    record = present(fields)
    return read_record(execution_id, record) if record.get("tenant") == tenant.encode() else None


def is_unreadable(execution_id: str, tenant: str, fields: Record) -> bool:
    try:
        read(execution_id, tenant, fields)
    except UNREADABLE_ERRORS:
        return True
    return False


def read_anyway(execution_id: str, tenant: str, fields: Record) -> Execution | None:
    """Like `read`, but shows an unreadable record as a failed execution."""
    try:
        return read(execution_id, tenant, fields)
    except UNREADABLE_ERRORS:
        return unreadable(outline(execution_id, fields))


def unreadable(execution: Execution) -> Execution:
    """The execution as failed with `RecordUnreadable`.

    The scripts normally write this failure themselves. This is for a store that takes no writes.
    """
    details = {f"{execution.type}_id": execution.target_id}
    failure = Failure("RecordUnreadable", "Its record in the store is unreadable.", details)
    return replace(execution, status=Status.FAILED, phase=None, failure=failure)


def outline(execution_id: str, fields: Record) -> Execution:
    """The fields that every execution has, with defaults for those that are unreadable."""
    record = present(fields)
    created_at = to_datetime(0)
    with suppress(*UNREADABLE_ERRORS):
        created_at = read_time(record["created_at"])
    is_pipeline = record.get("type") == TargetType.PIPELINE.encode()
    return Execution(
        id=execution_id,
        type=TargetType.PIPELINE if is_pipeline else TargetType.AGENT,
        target_id=record.get("target", b"unknown").decode(errors="replace"),
        status=Status.FAILED,
        phase=None,
        created_at=created_at,
    )


def broke_off(record: Record) -> bool:
    """Whether it is a pipeline that ended early.

    Its status shows the outputs of its finished steps, which may be large.
    """
    return record.get("type") == b"pipeline" and record.get("status") in (b"failed", b"canceled")


def is_large(outputs: bytes) -> bool:
    """Whether outputs are large in the store, or become large when they are unpacked."""
    return len(outputs) > SMALL_BYTES or unpacks_beyond(outputs, SMALL_TEXT_BYTES)


def present(fields: Record) -> dict[str, bytes]:
    """The fields that are not missing or empty."""
    return {name: value for name, value in fields.items() if value}
