"""Defines the record of an execution, which is an RQ job: its keys, and the fields of a new one.

The record is the job's own hash. It uses RQ's field where RQ has one, so RQ's classes and tools can
read it. `meta` holds the status, in the API's words, and the progress. RQ's results, dependencies,
callbacks, retries and webhooks are not used. Nothing here changes a state: only the Lua functions
do. `job_reader` reads a record.
"""

from __future__ import annotations

import json
import math
from typing import Any

from rq.job import Job
from rq.serializers import JSONSerializer

from app.domain.execution import Callback, NewExecution
from app.domain.payload import FUNCTION, write_call

LEASES_KEY = "exec:leases"
"""A sorted set of the running executions, by the moment at which their leases end."""


class ExecutionJob(Job):
    """An RQ job that accepts only `FUNCTION` as its function, and only JSON as its serializer.

    Otherwise, anybody who can write to the store could make a worker run any importable function.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        super().__init__(id, connection=connection, serializer=JSONSerializer)

    def restore(self, raw_data: Any) -> Any:
        super().restore(raw_data)
        if self.func_name != FUNCTION:
            raise ValueError(f"Job {self.id} names a function other than {FUNCTION}.")

    def save(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Only the scripts in the store write an execution's record.")

    save_meta = save
    set_status = save


def job_key(execution_id: str) -> str:
    """The key of the record."""
    return f"rq:job:{execution_id}"


def queue_key(queue: str) -> str:
    """The key of the ids that wait in a queue, the next one first."""
    return f"rq:queue:{queue}"


def outputs_key(execution_id: str) -> str:
    """The key of the outputs of a completed execution."""
    return f"rq:job:{execution_id}:outputs"


def data_key(execution_id: str) -> str:
    """The key of the request: what is to run, with its inputs and config."""
    return f"rq:job:{execution_id}:data"


def steps_key(execution_id: str) -> str:
    """The key of the records of steps: see `steps`."""
    return f"rq:job:{execution_id}:steps"


def step_outputs_key(execution_id: str) -> str:
    """The key of the outputs of steps: see `steps`."""
    return f"rq:job:{execution_id}:values"


def events_key(execution_id: str) -> str:
    """The key of the log, if the record does not say all of it: see `events`."""
    return f"rq:job:{execution_id}:events"


def write_callback(callback: Callback) -> str:
    """As the record has it."""
    return _json({"url": callback.url, "events": callback.events})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def new_data(new: NewExecution) -> bytes:
    """The request of a new execution, for `data_key`."""
    return write_call(type=new.type, target_id=new.target_id, inputs=new.inputs, config=new.config)


def new_fields(new: NewExecution) -> list[str | bytes | int | float]:
    """The record of a new execution as `field, value, ...`. `submit.lua` adds status and times."""
    fields: list[str | bytes | int | float] = [
        "origin", new.queue,
        "tenant", new.tenant,
        "type", new.type,
        "target", new.target_id,
        "timeout", math.ceil(new.timeout_seconds),
        "max_attempts", new.max_attempts,
    ]  # fmt: skip
    if new.timeout_seconds != math.ceil(new.timeout_seconds):
        fields += ["timeout_seconds", new.timeout_seconds]  # RQ's `timeout` has no fractions
    if new.total_steps > 1:
        fields += ["steps", new.total_steps]
    if new.retries.max:
        fields += ["retries", json.dumps([new.retries.max, *new.retries.backoff_seconds])]
    if new.callback:
        fields += ["callback", write_callback(new.callback)]
    if new.tags:
        fields += ["tags", _json(new.tags)]
    optional = {
        "request_id": new.request_id,
        "flow": new.flow,
        "definition": new.definition_hash,
        "retry_of": new.retry_of,
        "traceparent": new.traceparent,
    }
    for name, value in optional.items():
        if value:
            fields += [name, value]
    return fields
