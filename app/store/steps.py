"""Defines how the steps of an execution are stored: the form of their records, written and read.

The worker writes them in checkpoints, and reads them when it continues a pipeline. The web side
reads them for a status. Nothing here calls the store.

Each job has two hashes. In `rq:job:<id>:steps` the field `<step>` is a record (JSON),
`<step>:started` and `<step>:ended` are its times, and `<step>:<n>` is the outcome of item n of a
batch. In `rq:job:<id>:values` the field `<step>` is the output of the step, and `<step>:<n>` that
of an item, as packed JSON. (A step's id has no colon.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.execution import Execution, Failure, ModelUsage, Status, StepRecord, StepStatus
from app.domain.payload import readable

UNREADABLE = Failure("RecordUnreadable", "The stored record of this is unreadable.")
"""Replaces a failure, or the failure of a step, that another program has overwritten."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GAP = 10_000
"""An item's number this far above the count of outcomes is not ours: only items that still run have
no outcome.
"""


def to_datetime(microseconds: bytes | str | float) -> datetime:
    """The store's microseconds since 1970 as an aware time in UTC."""
    return _EPOCH + timedelta(microseconds=int(microseconds))


def read_moment(microseconds: bytes | None) -> datetime | None:
    """Like `to_datetime`; None if the time is missing or unreadable."""
    try:
        return to_datetime(microseconds) if microseconds is not None else None
    except (ValueError, OverflowError):
        return None


def write_usage(usage: Mapping[str, ModelUsage]) -> str:
    """`{model: [calls, input, output, total, estimated tokens]}` as JSON; `""` for no usage."""
    # Without an estimate the list ends before it: earlier versions know only four numbers.
    numbers = {
        model: astuple(used) if used.estimated_tokens else astuple(used)[:4]
        for model, used in usage.items()
    }
    return json.dumps(numbers) if numbers else ""


def read_usage(text: bytes | str) -> dict[str, ModelUsage]:
    """The inverse of `write_usage`. Empty if the text is unreadable."""
    try:
        usage = {model: ModelUsage(*numbers) for model, numbers in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    numbers = [number for used in usage.values() for number in astuple(used)]
    sound = all(number is None or (type(number) is int and number >= 0) for number in numbers)
    return usage if sound and all(used.calls is not None for used in usage.values()) else {}


def read_failure(text: bytes | str) -> Failure:
    """Reads a failure from its JSON; returns `UNREADABLE` if it is something else."""
    try:
        return as_failure(json.loads(text))
    except (ValueError, RecursionError):
        return UNREADABLE


def as_failure(fields: Any) -> Failure:
    """Like `read_failure`, for JSON that is parsed already."""
    try:
        failure = Failure(**fields)
    except TypeError:
        return UNREADABLE
    sound = (
        isinstance(failure.type, str)
        and isinstance(failure.message, str)
        and isinstance(failure.details, dict)
    )
    return failure if sound else UNREADABLE


def write_outcome(failure: Failure | None) -> str:
    """The outcome of an item of a batch, as JSON: its failure, or null."""
    return json.dumps(asdict(failure)) if failure else "null"


def write_record(record: StepRecord) -> str:
    """A step's record as JSON. The store adds the times; items have fields of their own."""
    fields: dict[str, Any] = {
        "position": record.position,
        "status": record.status,
        "output_key": record.output_key,
        "agent": record.agent,
        "flow": record.flow,
        "done": record.done,
        "attempt": record.attempt,
        "usage": write_usage(record.usage),
        "failure": asdict(record.failure) if record.failure else None,
        "warnings": record.warnings or None,
    }
    return json.dumps(
        {name: value for name, value in fields.items() if value is not None and value != ""}
    )


def with_steps(
    execution: Execution, steps: Mapping[str, bytes], values: Mapping[str, bytes]
) -> Execution:
    """The execution with its steps, and the outputs of the finished ones, from the two hashes.

    The output of a batch that has not ended is a list with null for each missing item. An output
    that is no JSON counts as missing: another program wrote it.
    """
    records = tuple(as_seen(record, execution.status) for record in read_records(steps))
    outputs: dict[str, bytes] = {}
    for record in records:
        finished = [number for number, failure in record.items.items() if failure is None]
        output = readable(values[record.id]) if record.done and record.id in values else None
        if output is not None:
            outputs[record.output_key] = output
        elif not record.done and finished:
            items = (
                values.get(f"{record.id}:{number}", b"null") for number in range(max(finished) + 1)
            )
            outputs[record.output_key] = (
                b"[" + b", ".join(readable(item) or b"null" for item in items) + b"]"
            )
    return replace(execution, steps=records, step_outputs=outputs if values else {})


def read_records(fields: Mapping[str, bytes]) -> list[StepRecord]:
    """The records of a `steps` hash, in the order of the pipeline's file."""
    items: dict[str, dict[int, Failure | None]] = {}
    for name, text in fields.items():
        step, _, number = name.partition(":")
        if number.isascii() and number.isdigit() and len(number) < 10:
            items.setdefault(step, {})[int(number)] = (
                None if text == b"null" else read_failure(text)
            )
    for outcomes in items.values():
        for far in [place for place in outcomes if place > len(outcomes) + _GAP]:
            del outcomes[far]
    records = (_record(name, fields, items.get(name, {})) for name in fields if ":" not in name)
    return sorted(records, key=lambda record: record.position)


def _record(id: str, fields: Mapping[str, bytes], items: dict[int, Failure | None]) -> StepRecord:
    """One record. An unreadable one becomes a failed step, which the next attempt runs again."""
    try:
        record = _checked(json.loads(fields[id]))
        failure = record.pop("failure", None)
        return StepRecord(
            id=id,
            status=StepStatus(record.pop("status")),
            usage=read_usage(record.pop("usage", "")),
            failure=as_failure(failure) if failure else None,
            items=items,
            started_at=read_moment(fields.get(f"{id}:started")),
            ended_at=read_moment(fields.get(f"{id}:ended")),
            warnings=tuple(map(str, record.pop("warnings", ()))),
            **record,
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return StepRecord(
            id, len(fields), StepStatus.FAILED, output_key=id, failure=UNREADABLE, items=items
        )


_KINDS: dict[str, tuple[type, ...]] = {
    "position": (int,),
    "status": (str,),
    "output_key": (str,),
    "agent": (str,),
    "flow": (str,),
    "done": (bool,),
    "attempt": (int,),
    "usage": (str,),
    "failure": (dict,),
    "warnings": (list,),
}
"""The fields that `write_record` writes, with their types."""


def _checked(record: Any) -> dict[str, Any]:
    """Raises `TypeError` or `KeyError` if `write_record` cannot have written this."""
    for name, value in dict(record).items():
        # Not `isinstance`: a bool is an int in Python, but not in our records.
        if type(value) not in _KINDS[name]:
            raise TypeError(name)
    return dict(record)


def as_seen(record: StepRecord, status: Status) -> StepRecord:
    """The record as users see it, which depends on the status of the execution.

    Only a running execution has running steps. A step that an attempt has left unfinished will be
    started again by the next attempt, or by none.
    """
    if record.done:
        return record
    if status is Status.RUNNING:
        # A pending step waits for its next try, so the times of an earlier one are not shown.
        waits = record.status is StepStatus.PENDING
        return replace(record, started_at=None, ended_at=None) if waits else record
    if status is Status.PENDING:
        return replace(
            record, status=StepStatus.PENDING, started_at=None, ended_at=None, failure=None
        )
    if record.status in (StepStatus.RUNNING, StepStatus.PENDING):
        return replace(record, status=StepStatus.CANCELLED)
    return record
