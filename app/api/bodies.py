"""Answers as JSON: one pass, with outputs passed on as the text that the runtime wrote."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from app.executions.model import Attempt, Execution, Page, Progress, Status
from app.executions.service import Started

_ENDED_AT = {Status.COMPLETED: "completed_at", Status.FAILED: "failed_at", Status.CANCELLED: "cancelled_at"}


def started(receipt: Started) -> dict[str, Any]:
    return {
        "execution_id": receipt.execution_id,
        "status": "pending",
        "message": f"{receipt.type.capitalize()} execution started",
        "status_url": status_url(receipt.execution_id),
        "created_at": time(receipt.created_at),
    }


def status_url(execution_id: str) -> str:
    return f"/api/v1/executions/{execution_id}"


def execution(each: Execution) -> str:
    """A status, as JSON text. Fields of another state are left out, not null."""
    body = summary(each)
    if each.progress or each.status is Status.RUNNING:
        body["progress"] = _progress(each.progress or Progress(0, 1))
    if each.failure:
        failure = each.failure
        body["error"] = {"type": failure.type, "message": failure.message, "details": failure.details}
    if each.attempts:
        body["attempts"] = [_attempt(attempt) for attempt in each.attempts]
    if each.traceparent:
        body["traceparent"] = each.traceparent
    text = json.dumps(body)
    if each.status is Status.COMPLETED:
        return f'{text[:-1]}, "outputs": {(each.outputs or b"{}").decode()}}}'
    return text


def summary(each: Execution) -> dict[str, Any]:
    """What a list shows of an execution."""
    body: dict[str, Any] = {
        "execution_id": each.id,
        "type": each.type,
        "target_id": each.target_id,
        "status": each.status,
        "attempt": each.attempt,
        "created_at": time(each.created_at),
    }
    if each.phase:
        body["phase"] = each.phase
    if each.started_at:
        body["started_at"] = time(each.started_at)
    if each.ended_at:
        body[_ENDED_AT[each.status]] = time(each.ended_at)
    return body


def page(found: Page) -> dict[str, Any]:
    return {
        "executions": [summary(each) for each in found.executions],
        "pagination": {
            "page": found.page,
            "page_size": found.page_size,
            "total_items": found.total_items,
            "total_pages": found.total_pages,
            "has_next": found.page < found.total_pages,
            "has_prev": found.page > 1,
        },
    }


def cancelled(each: Execution) -> dict[str, Any]:
    data: dict[str, Any] = {"execution_id": each.id, "status": each.status}
    if each.status is Status.CANCELLED and each.ended_at:
        return {"message": "Execution cancelled", "data": {**data, "cancelled_at": time(each.ended_at)}}
    return {"message": "Execution is being cancelled", "data": {**data, "phase": each.phase}}


def time(moment: datetime) -> str:
    """RFC 3339 in UTC, with milliseconds and `Z`."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "current_step": progress.finished,
        "total_steps": progress.total,
        "percentage": progress.percentage,
        "current_step_name": progress.step_name,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    body: dict[str, Any] = {"number": attempt.number, "worker": attempt.worker, "started_at": time(attempt.started_at)}
    if attempt.ended_at:
        body["ended_at"] = time(attempt.ended_at)
    return {**body, "outcome": attempt.outcome}
