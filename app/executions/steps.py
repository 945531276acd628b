"""The steps of an execution in the store: the form of their records, written by the runtime, read by the web side.

Two hashes stand beside the job. In `rq:job:<id>:steps` the field `<step>` is a record (JSON), `<step>:started`
and `<step>:ended` are its times, and `<step>:<n>` is the outcome of item n of a batch. In `rq:job:<id>:values`
the field `<step>` is the step's output, and `<step>:<n>` that of an item, as packed JSON. (A step's id has
no colon.) Knows no Redis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.executions.model import Execution, Failure, ModelUsage, Status, StepRecord, StepStatus
from app.executions.payload import unpack

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(microseconds: bytes | str | float) -> datetime:
    """The store's microseconds since 1970 as an aware time in UTC."""
    return _EPOCH + timedelta(microseconds=int(microseconds))


def write_usage(usage: Mapping[str, ModelUsage]) -> str:
    """`{model: [calls, input, output, total, estimated tokens]}` as JSON; empty text for no usage.

    Without an estimate the list ends before it, as earlier versions wrote and read it.
    """
    numbers = {model: astuple(used) if used.estimated_tokens else astuple(used)[:4] for model, used in usage.items()}
    return json.dumps(numbers) if numbers else ""


def read_usage(text: bytes | str) -> dict[str, ModelUsage]:
    """Undoes `write_usage`."""
    return {model: ModelUsage(*numbers) for model, numbers in json.loads(text or "{}").items()}


def write_outcome(failure: Failure | None) -> str:
    """How an item of a batch ended, as JSON."""
    return json.dumps(asdict(failure)) if failure else "null"


def write_record(record: StepRecord) -> str:
    """As JSON, without the times, which are the store's to give, and without the items, which stand beside it."""
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
    return json.dumps({name: value for name, value in fields.items() if value is not None and value != ""})


def with_steps(execution: Execution, steps: Mapping[str, bytes], values: Mapping[str, bytes]) -> Execution:
    """The execution with its steps, and what the finished ones have put out, from the two hashes.

    Of a batch that has not come to its end, that is a list with null for each item that is missing.
    """
    records = tuple(as_seen(record, execution.status) for record in read_records(steps))
    outputs = {each.output_key: unpack(values[each.id]) for each in records if each.done and each.id in values}
    for each in records:
        finished = [number for number, failure in each.items.items() if failure is None]
        if not each.done and finished:
            items = (values.get(f"{each.id}:{number}", b"null") for number in range(max(finished) + 1))
            outputs[each.output_key] = b"[" + b", ".join(map(unpack, items)) + b"]"
    return replace(execution, steps=records, step_outputs=outputs if values else {})


def read_records(fields: Mapping[str, bytes]) -> list[StepRecord]:
    """The records of a `steps` hash, in the order of the pipeline's file."""
    items: dict[str, dict[int, Failure | None]] = {}
    for name, text in fields.items():
        step, _, number = name.partition(":")
        if number.isdigit():
            failure = json.loads(text)
            items.setdefault(step, {})[int(number)] = Failure(**failure) if failure else None
    records = (_record(name, fields, items.get(name, {})) for name in fields if ":" not in name)
    return sorted(records, key=lambda record: record.position)


def _record(id: str, fields: Mapping[str, bytes], items: dict[int, Failure | None]) -> StepRecord:
    record: dict[str, Any] = json.loads(fields[id])
    failure = record.pop("failure", None)
    for moment in ("started", "ended"):
        if f"{id}:{moment}" in fields:
            record[f"{moment}_at"] = to_datetime(fields[f"{id}:{moment}"])
    return StepRecord(
        id=id,
        status=StepStatus(record.pop("status")),
        usage=read_usage(record.pop("usage", "")),
        failure=Failure(**failure) if failure else None,
        items=items,
        warnings=tuple(record.pop("warnings", ())),
        **record,
    )


def as_seen(record: StepRecord, status: Status) -> StepRecord:
    """A record in the light of its execution's status.

    Only a running execution has running steps: what an attempt left behind, a later one starts again, or
    nobody does.
    """
    if record.done:
        return record
    if status is Status.RUNNING:
        waits = record.status is StepStatus.PENDING  # for its next try, or for the first one of a retry
        return replace(record, started_at=None, ended_at=None) if waits else record
    if status is Status.PENDING:
        return replace(record, status=StepStatus.PENDING, started_at=None, ended_at=None, failure=None)
    if record.status in (StepStatus.RUNNING, StepStatus.PENDING):
        return replace(record, status=StepStatus.CANCELLED)
    return record
