"""An execution as an RQ job: which fields its record has, and how they are written and read.

The record lives in the job's own hash and nowhere else. RQ's own bookkeeping (its registries, results,
dependencies, callbacks, retries, webhooks, and the dozen fields it keeps for them) is replaced by the
record and the scripts, so an execution is stored without it. RQ's tools still see the queue, the
workers and, with `--job-class app.executions.job.ExecutionJob`, each job with a `meta` that is a view
of the record. Nothing here changes a state: only the scripts do.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from rq.job import Job
from rq.serializers import JSONSerializer

from app.executions.model import Attempt, Execution, Failure, NewExecution, Phase, Progress, Status, TargetType
from app.executions.payload import FUNCTION, unpack, write_call
from app.executions.steps import read_usage, to_datetime

STATUS_OF_RQ = {
    "created": Status.PENDING,
    "queued": Status.PENDING,
    "deferred": Status.PENDING,
    "scheduled": Status.PENDING,
    "rate_limited": Status.PENDING,
    "ready_to_enqueue": Status.PENDING,
    "started": Status.RUNNING,
    "finished": Status.COMPLETED,
    "failed": Status.FAILED,
    "stopped": Status.CANCELLED,
    "canceled": Status.CANCELLED,
}
"""What each of RQ's eleven job states means here. The scripts write five of them."""

SUMMARY_FIELDS = (
    "status",
    "tenant",
    "type",
    "target",
    "created",
    "attempt",
    "started",
    "ended",
    "cancel",
    "due",
    "retry_of",
)
"""What a list shows. The scripts count on the first three."""

RECORD_FIELDS = (
    *SUMMARY_FIELDS,
    *("progress", "steps", "error", "worker", "history", "usage", "flow", "definition", "traceparent"),
)
"""What a status shows."""


class ExecutionJob(Job):
    """An RQ job that accepts no other function than `FUNCTION`, and no other serializer than JSON.

    Whoever can write to the store could otherwise have any importable function run.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        super().__init__(id, connection=connection, serializer=JSONSerializer)

    def restore(self, raw_data: Any) -> Any:
        """Reads the job and composes `meta`, the times and the function's arguments from the record."""
        record = {key.decode(): value for key, value in raw_data.items()}
        super().restore({**raw_data, b"data": self.connection.get(data_key(self.id)) or b""})
        if self.func_name != FUNCTION:
            raise ValueError(f"Job {self.id} names another function than {FUNCTION}.")
        seen = read_record(self.id, record)
        self.created_at, self.started_at, self.ended_at = seen.created_at, seen.started_at, seen.ended_at
        self.meta = {
            "status": seen.status.value,
            "progress": [seen.progress.finished, seen.progress.total, seen.progress.step_name]
            if seen.progress
            else None,
            "attempt": seen.attempt,
            "error": seen.failure.type if seen.failure else None,
        }

    def save(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("An execution's record is written by the scripts alone.")

    save_meta = save
    set_status = save


def job_key(execution_id: str) -> str:
    """The record."""
    return f"rq:job:{execution_id}"


def outputs_key(execution_id: str) -> str:
    """Where the outputs of a completed execution are kept."""
    return f"rq:job:{execution_id}:outputs"


def data_key(execution_id: str) -> str:
    """Where what was asked is kept: beside the record, as RQ's `data`."""
    return f"rq:job:{execution_id}:data"


def new_data(new: NewExecution) -> bytes:
    """What a new execution is asked to do: RQ's `data`."""
    return write_call(type=new.type, target_id=new.target_id, inputs=new.inputs, config=new.config)


def new_fields(new: NewExecution) -> list[str | bytes | int | float]:
    """The record of a new execution as `field, value, ...`. The script adds its status and its times."""
    fields: list[str | bytes | int | float] = [
        "origin", new.queue,
        "tenant", new.tenant,
        "type", new.type,
        "target", new.target_id,
        "timeout_seconds", new.timeout_seconds,
        "max_attempts", new.max_attempts,
    ]  # fmt: skip
    if new.total_steps > 1:
        fields += ["steps", new.total_steps]
    if new.retries.max:
        fields += ["retries", json.dumps([new.retries.max, *new.retries.backoff_seconds])]
    optional = ("request_id", "flow", "definition", "retry_of", "traceparent")
    for name in optional:
        if value := getattr(new, name):
            fields += [name, value]
    return fields


def read_record(execution_id: str, record: dict[str, bytes]) -> Execution:
    """Translates an RQ job's hash into an execution. Raises `ValueError` or `KeyError` where it makes no sense."""
    status = STATUS_OF_RQ[record["status"].decode()]
    return Execution(
        id=execution_id,
        type=TargetType(record["type"].decode()),
        target_id=record["target"].decode(),
        status=status,
        phase=_phase(status, record),
        created_at=to_datetime(record["created"]),
        attempt=int(record.get("attempt", 0)),
        started_at=_time(record, "started"),
        ended_at=_time(record, "ended"),
        progress=_progress(record, status),
        outputs=unpack(record["outputs"]) if "outputs" in record and status is Status.COMPLETED else None,
        failure=Failure(**json.loads(record["error"])) if "error" in record else None,
        attempts=_attempts(record, status) if "worker" in record or "history" in record else (),
        traceparent=_text(record, "traceparent"),
        flow=_text(record, "flow"),
        definition=_text(record, "definition") or "",
        retry_of=_text(record, "retry_of"),
        usage=read_usage(record["usage"]) if "usage" in record else {},
    )


def _phase(status: Status, record: dict[str, bytes]) -> Phase | None:
    if status is Status.PENDING:
        return Phase.RETRY_WAIT if "due" in record else Phase.QUEUED
    if status is Status.RUNNING:
        return Phase.CANCELLING if "cancel" in record else Phase.RUNNING
    return None


def _progress(record: dict[str, bytes], status: Status) -> Progress | None:
    """What the last beat stored; a completed run has done all its steps."""
    if status is Status.COMPLETED and "outputs" in record:
        steps = int(record.get("steps", 1))
        return Progress(steps, steps)
    return Progress(*json.loads(record["progress"])) if status is Status.RUNNING and "progress" in record else None


def _text(record: dict[str, bytes], field: str) -> str | None:
    return record[field].decode() if field in record else None


def _time(record: dict[str, bytes], field: str) -> datetime | None:
    return to_datetime(record[field]) if field in record else None


def _attempts(record: dict[str, bytes], status: Status) -> tuple[Attempt, ...]:
    """The earlier attempts, which the scripts noted as they ended, and the current or last one."""
    past = json.loads(b"[" + record.get("history", b"").removesuffix(b",") + b"]")
    attempts = [
        Attempt(
            each["number"],
            each["worker"],
            to_datetime(each["started"]),
            to_datetime(each["ended"]),
            each["outcome"],
            each["error"],
        )
        for each in past
    ]
    if "started" in record and "worker" in record:
        error = json.loads(record["error"])["type"] if "error" in record else None
        attempts.append(
            Attempt(
                int(record["attempt"]),
                record["worker"].decode(),
                to_datetime(record["started"]),
                _time(record, "ended"),
                "lost" if error == "WorkerLost" else status,
                error,
            )
        )
    return tuple(attempts)
