"""The span of an attempt: from its claim to its end, made by the worker, so that a dead child has one too."""

from __future__ import annotations

import json

from app.executions.payload import read_call
from app.tracing import Span, Tracing
from app.work.attempt import Attempt, Entry


def begin(tracing: Tracing, attempt: Attempt) -> None:
    """Starts it, under the request's span. From now on its own traceparent is the attempt's."""
    if not tracing.enabled:
        return
    attempt.span = tracing.start(
        _name(attempt),
        "consumer",
        attempt.traceparent,
        link=True,
        execution__id=attempt.id,
        execution__attempt=attempt.number,
        execution__tenant=attempt.tenant,
        request__id=attempt.request_id,
    )
    attempt.traceparent = attempt.span.traceparent


def end(attempt: Attempt, entry: Entry | None, status: str) -> None:
    """Ends it with the status that the execution has now; without an entry, it was somebody else's."""
    span: Span | None = attempt.span
    if span is None:
        return
    span.set(execution__status=status)
    span.end(_error_type(entry))


def _name(attempt: Attempt) -> str:
    try:
        return f"run {read_call(attempt.data)['target_id']}"
    except (ValueError, KeyError):
        return "run"  # the child will find that out, and say so


def _error_type(entry: Entry | None) -> str | None:
    if entry is None or entry.arguments[0] == "lost":
        return "WorkerLost"
    if entry.arguments[0] != "failed":
        return None
    detail = entry.arguments[2]
    return str(json.loads(detail)["type"] if entry.script == "finish" else detail)
