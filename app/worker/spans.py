"""Starts and ends the trace span of an attempt. Called by `attempt`.

The worker makes the span, not the child, so that an attempt whose child died has one too.
"""

from __future__ import annotations

import json

from app.domain.payload import read_call
from app.telemetry.tracing import Span, Tracing
from app.worker.claim import Claim
from app.worker.ending import Ending, Finish


def begin(tracing: Tracing, claim: Claim) -> Span | None:
    """Starts the span under the request's span; None if nothing is traced. Spans of the run go
    under the traceparent of this one.
    """
    if not tracing.enabled:
        return None
    return tracing.start(
        _name(claim),
        "consumer",
        claim.traceparent,
        link=True,
        execution__id=claim.id,
        execution__attempt=claim.number,
        execution__tenant=claim.tenant,
        request__id=claim.request_id,
    )


def end(span: Span | None, ending: Ending | None, status: str) -> None:
    """Ends the span with the execution's present status. `ending` is None if the lease was lost."""
    if span is not None:
        span.set(execution__status=status)
        span.end(_error_type(ending))


def _name(claim: Claim) -> str:
    try:
        return f"run {read_call(claim.data)['target_id']}"
    except (ValueError, KeyError):
        return "run"  # the child fails on the same data, and reports it


def _error_type(ending: Ending | None) -> str | None:
    if isinstance(ending, Finish):
        return str(json.loads(ending.error)["type"]) if ending.error else None
    if ending is None or ending.how == "lost":
        return "WorkerLost"
    return ending.reason if ending.how == "failed" else None
