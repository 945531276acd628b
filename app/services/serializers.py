"""Writes what people see of executions, as JSON: the bodies of answers.

`app.api.executions` calls it; `app.api.answer_schemas` describes the same bodies. It is not in
`app.api`, because a worker tells the same things to other services. Outputs are stored as JSON
text, and are copied into a body as they are: parsing them would cost time and memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.domain.events import Event
from app.domain.execution import (
    Attempt,
    Execution,
    Failure,
    LargeText,
    ModelUsage,
    Page,
    Progress,
    Started,
    Status,
    StepRecord,
    WaitingFor,
    sum_of_reported,
)

if TYPE_CHECKING:
    from app.services.streams import LogPage
    from app.store.feed import FeedEntry

MOST_OUTPUT_BYTES = 256 * 1024
"""The most outputs in a status that is sent unasked."""

_ENDED_AT = {
    Status.COMPLETED: "completed_at",
    Status.FAILED: "failed_at",
    Status.CANCELLED: "cancelled_at",
}


def started(receipt: Started) -> dict[str, Any]:
    retry_of = {"retry_of": receipt.retry_of} if receipt.retry_of else {}
    return {
        **retry_of,
        "execution_id": receipt.execution_id,
        "status": "pending",
        "message": f"{receipt.type.capitalize()} execution started",
        "status_url": status_url(receipt.execution_id),
        "created_at": time(receipt.created_at),
    }


def status_url(execution_id: str) -> str:
    return f"/api/v1/executions/{execution_id}"


class Pieces:
    """A JSON object whose last value is large, and is sent in pieces instead of being joined."""

    def __init__(self, head: bytes, text: LargeText):
        self._head = head
        self._text = text
        self.size = len(head) + text.size + 1

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._text.pieces()
        yield b"}"


def execution(
    found: Execution,
    *,
    with_steps: bool = False,
    asked: Mapping[str, bytes] | None = None,
    with_outputs: bool = True,
) -> bytes | Pieces:
    """The status of an execution. Fields that do not apply to it are omitted, not null.

    `asked` are parts of its request, as JSON. Without `with_outputs`, `outputs_omitted` says so.
    """
    body = summary(found)
    if found.waiting_for:
        body["waiting_for"] = _waiting_for(found.waiting_for)
    if found.definition_hash:
        body["definition"] = found.definition_hash
    if found.progress or found.status is Status.RUNNING:
        body["progress"] = _progress(found.progress or Progress(0, 1))
    if found.last_heartbeat_at:
        body["last_heartbeat_at"] = time(found.last_heartbeat_at)
    if found.failure:
        body["error"] = _failure(found.failure)
    if found.attempts:
        body["attempts"] = [_attempt(attempt) for attempt in found.attempts]
    if found.traceparent:
        body["traceparent"] = found.traceparent
    if found.usage:
        body["usage"] = _usage(found.usage)
    if with_steps:
        body["steps"] = [_step(step) for step in found.steps]
    if not with_outputs:
        body["outputs_omitted"] = True
    text = json.dumps(body).encode()
    for name, value in (asked or {}).items():
        text = _with(text, name, value)
    if not with_outputs:
        return text
    if found.status is Status.COMPLETED:
        outputs = found.outputs or b"{}"
        return (
            _with(text, "outputs", outputs)
            if isinstance(outputs, bytes)
            else Pieces(_open(text, "outputs"), outputs)
        )
    return (
        _with(text, "outputs_partial", _object(found.step_outputs)) if found.step_outputs else text
    )


def bounded(found: Execution) -> bytes:
    """The status for who did not ask for its outputs: large ones are left out."""
    outputs = found.outputs or b""
    size = len(outputs) if isinstance(outputs, bytes) else outputs.size
    size += sum(map(len, found.step_outputs.values()))
    body = execution(found, with_outputs=size <= MOST_OUTPUT_BYTES)
    return body if isinstance(body, bytes) else b"".join(body)


def webhook(found: Execution, event: str, at: datetime, *, with_outputs: bool) -> bytes:
    """The body of a webhook: the event, and the status of its execution at this moment."""
    head = {"type": f"execution.{event}", "timestamp": time(at)}
    data = execution(found, with_outputs=with_outputs)
    # Outputs that are not in memory are not sent.
    text = data if isinstance(data, bytes) else execution(found, with_outputs=False)
    assert isinstance(text, bytes)
    return _with(json.dumps(head).encode(), "data", text)


def steps(found: Execution, *, with_outputs: bool = False) -> bytes:
    """The steps of an execution, and the outputs of its finished steps if `with_outputs`."""
    body = {
        "execution_id": found.id,
        "status": found.status,
        "steps": [_step(step) for step in found.steps],
    }
    text = json.dumps(body).encode()
    return _with(text, "outputs", _object(found.step_outputs)) if with_outputs else text


def _with(text: bytes, name: str, value: bytes) -> bytes:
    """Adds a last field to a JSON object. `value` is JSON; it may be large, and is copied once."""
    return b"".join([_open(text, name), value, b"}"])


def _open(text: bytes, name: str) -> bytes:
    """The beginning of the same object, up to the value."""
    return text[:-1] + b', "' + name.encode() + b'": '


def _object(values: Mapping[str, bytes]) -> bytes:
    return (
        b"{"
        + b", ".join(json.dumps(name).encode() + b": " + value for name, value in values.items())
        + b"}"
    )


def summary(found: Execution) -> dict[str, Any]:
    """The fields of an execution in a list, which are also the first ones of its status."""
    body: dict[str, Any] = {
        "execution_id": found.id,
        "type": found.type,
        "target_id": found.target_id,
        "status": found.status,
        "attempt": found.attempt,
        "version": found.version,
        "created_at": time(found.created_at),
    }
    if found.phase:
        body["phase"] = found.phase
    if found.retry_of:
        body["retry_of"] = found.retry_of
    if found.tags:
        body["tags"] = list(found.tags)
    if found.started_at:
        body["started_at"] = time(found.started_at)
    if found.ended_at:
        body[_ENDED_AT[found.status]] = time(found.ended_at)
    return body


def page(found: Page) -> dict[str, Any]:
    return {
        "executions": [summary(item) for item in found.executions],
        "pagination": {
            "page": found.page,
            "page_size": found.page_size,
            "total_items": found.total_items,
            "total_pages": found.total_pages,
            "has_next": found.page < found.total_pages,
            "has_prev": found.page > 1,
        },
    }


def cancelled(found: Execution) -> dict[str, Any]:
    data: dict[str, Any] = {"execution_id": found.id, "status": found.status}
    if found.status is Status.CANCELLED and found.ended_at:
        return {
            "message": "Execution cancelled",
            "data": {**data, "cancelled_at": time(found.ended_at)},
        }
    return {"message": "Execution is being cancelled", "data": {**data, "phase": found.phase}}


def event(found: Event, execution_id: str) -> dict[str, Any]:
    """One event of the log of an execution."""
    return {
        "id": found.number,
        "type": f"execution.{found.type}",
        "at": time(found.at),
        "execution_id": execution_id,
        "data": _event_data(found),
    }


def _event_data(found: Event) -> dict[str, Any]:
    data = found.data
    if found.type == "progress":
        return _progress(data["progress"] or Progress(0, 1))
    if found.type == "failed":
        return {"error": _failure(data["error"])}
    if found.type == "retrying":
        due_at = data["due_at"]
        return {
            "attempt": data["attempt"],
            "outcome": data["outcome"],
            **({"error": data["error"]} if data["error"] else {}),
            **({"next_attempt_at": time(due_at)} if due_at else {}),
        }
    return data


def log_page(page: LogPage, execution_id: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "execution_id": execution_id,
        "events": [event(entry, execution_id) for entry in page.events],
        "first": page.first,
        "version": page.version,
        "ended": page.ended,
        "has_more": page.next is not None,
    }
    return body if page.next is None else {**body, "next": page.next}


def change(entry: FeedEntry) -> dict[str, Any]:
    """One change of a status, in the feed of a tenant. It looks like the event in the log."""
    return {
        "id": entry.number,
        "type": f"execution.{entry.type}",
        "at": time(entry.at),
        "execution_id": entry.execution_id,
        "data": {
            "type": entry.target_type,
            "target_id": entry.target_id,
            "tags": list(entry.tags),
        },
    }


def time(moment: datetime) -> str:
    """Formats a time in UTC as RFC 3339, with milliseconds and `Z`."""
    return f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"  # `[:-6]` cuts off `+00:00`


def _waiting_for(waiting: WaitingFor) -> dict[str, Any]:
    body: dict[str, Any] = {"reason": waiting.reason, "detail": waiting.detail}
    if waiting.until:
        body["until"] = time(waiting.until)
    if waiting.before is not None:
        body["before"] = waiting.before
    return body


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "current_step": progress.finished,
        "total_steps": progress.total,
        "percentage": progress.percentage,
        "current_step_name": progress.step_name,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    body: dict[str, Any] = {
        "number": attempt.number,
        "worker": attempt.worker,
        "started_at": time(attempt.started_at),
    }
    if attempt.ended_at:
        body["ended_at"] = time(attempt.ended_at)
    body["outcome"] = attempt.outcome
    return {**body, "error": attempt.error} if attempt.error else body


def _failure(failure: Failure) -> dict[str, Any]:
    return {"type": failure.type, "message": failure.message, "details": failure.details}


def _usage(usage: Mapping[str, ModelUsage]) -> dict[str, Any]:
    return {
        "tokens_used": sum_of_reported(used.total_tokens for used in usage.values()),
        "models": {model: _model_usage(used) for model, used in usage.items()},
    }


def _model_usage(used: ModelUsage) -> dict[str, Any]:
    body = asdict(used)
    return (
        body
        if used.estimated_tokens
        else {name: body[name] for name in body if name != "estimated_tokens"}
    )


def _step(step: StepRecord) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": step.id,
        "agent": step.agent,
        "flow": step.flow,
        "status": step.status,
        "attempt": step.attempt,
        "output_key": step.output_key,
    }
    if step.started_at:
        body["started_at"] = time(step.started_at)
    if step.ended_at:
        body["ended_at"] = time(step.ended_at)
    if step.usage:
        body["model"] = list(step.usage)[-1]
        body["tokens"] = {
            "input": sum_of_reported(used.input_tokens for used in step.usage.values()),
            "output": sum_of_reported(used.output_tokens for used in step.usage.values()),
            "total": sum_of_reported(used.total_tokens for used in step.usage.values()),
        }
        body["usage"] = _usage(step.usage)
    if step.failure:
        body["error"] = _failure(step.failure)
    if step.warnings:
        body["warnings"] = list(step.warnings)
    if step.items:
        body["items"] = [_item(number, step.items[number]) for number in sorted(step.items)]
    return body


def _item(number: int, failure: Failure | None) -> dict[str, Any]:
    if failure is None:
        return {"item": number, "status": "completed"}
    return {"item": number, "status": "failed", "error": _failure(failure)}
