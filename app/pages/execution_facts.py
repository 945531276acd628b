"""What the page of one execution shows of it. Pure functions; `execution` calls them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.delivery import Delivery, DeliveryPage, DeliveryStatus
from app.domain.execution import (
    Attempt,
    Execution,
    Phase,
    Progress,
    Status,
    TargetType,
    WaitingFor,
    sum_of_reported,
)
from app.domain.key import Scope
from app.pages import words
from app.pages.json_tree import Shown, shown, shown_value

MAX_CURL_BYTES = 8 * 1024
"""Inputs that are larger do not fit into a command."""

MOST_OUTPUTS = 40
"""So many outputs of finished steps are shown: those of the last steps."""


@dataclass(frozen=True, slots=True)
class Actions:
    """What this caller can do with the execution now."""

    cancel: bool
    retry: bool
    retry_from_start: bool
    again: bool
    redeliver: bool


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt, why it ended, and for how long it has run."""

    attempt: Attempt
    why: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery. `state` is the status whose shape and colour it has, `word` is its own."""

    delivery: Delivery
    state: str
    word: str
    last_code: str
    why: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the live part of the page shows, besides the steps.

    `started_at` is the first start, `waited_seconds` the time before it, `seconds` that after it.
    """

    status: Status
    phase: str
    is_over: bool
    percentage: float | None
    done: str
    waiting: WaitingFor | None
    started_at: datetime | None
    waited_seconds: float
    seconds: float | None
    tokens: int | None
    estimated_tokens: int
    models: tuple[str, ...]
    actions: Actions
    attempts: tuple[AttemptRow, ...]
    details: Shown | None
    outputs: Shown | None
    deliveries: tuple[DeliveryRow, ...]
    more_deliveries: int
    callback_url: str

    @property
    def is_live(self) -> bool:
        """Whether something may still change."""
        return not self.is_over or any(row.delivery.ended_at is None for row in self.deliveries)


@dataclass(frozen=True, slots=True)
class Partial:
    """The outputs of finished steps by their keys, and how many more there are."""

    outputs: tuple[tuple[str, Shown], ...] = ()
    left_out: int = 0


def facts(
    execution: Execution,
    deliveries: DeliveryPage,
    scopes: Collection[Scope],
    now: datetime,
    *,
    is_known: bool,
) -> Facts:
    """Computes what a caller with these scopes sees. `is_known`: the target still exists."""
    end = execution.ended_at or now
    first = execution.first_started_at
    percentage, done = _progress(execution)
    failure, usage = execution.failure, execution.usage
    return Facts(
        status=execution.status,
        phase=words.phase(execution.phase),
        is_over=execution.status.ended,
        percentage=percentage,
        done=done,
        waiting=execution.waiting_for,
        started_at=first,
        waited_seconds=((first or end) - execution.created_at).total_seconds(),
        seconds=execution.run_seconds(now),
        tokens=sum_of_reported(use.total_tokens for use in usage.values()),
        estimated_tokens=sum(use.estimated_tokens for use in usage.values()),
        models=tuple(usage),
        actions=_actions(execution, scopes, is_known=is_known),
        attempts=tuple(_attempt(attempt, end) for attempt in execution.attempts),
        details=shown_value(failure.details) if failure and failure.details else None,
        outputs=_outputs(execution),
        deliveries=tuple(map(_delivery, deliveries.deliveries)),
        more_deliveries=deliveries.total - len(deliveries.deliveries),
        callback_url=deliveries.callback.url if deliveries.callback else "",
    )


def curl(url: str, body: dict[str, Any] | None, *, with_key: bool) -> str:
    """The command that starts the same execution, or without `body` reads a URL."""
    lines = ["curl"]
    if with_key:
        lines.append('-H "X-API-Key: $API_KEY"')
    if body is not None:
        text = json.dumps(body, ensure_ascii=False)
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(text)}"]
    return " \\\n  ".join([*lines, shlex.quote(url)])


def start_body(execution: Execution, asked: dict[str, bytes]) -> dict[str, Any] | None:
    """The request that starts the same again, without its callback; None if it is too large for a
    command.
    """
    if sum(map(len, asked.values())) > MAX_CURL_BYTES:
        return None
    parts = {name: json.loads(text) for name, text in asked.items()}
    body = {"type": execution.type, "target_id": execution.target_id, **parts}
    body["tags"] = list(execution.tags)
    return {name: value for name, value in body.items() if value or name == "inputs"}


def _actions(execution: Execution, scopes: Collection[Scope], *, is_known: bool) -> Actions:
    status = execution.status
    may_start = Scope.START in scopes
    retry = may_start and is_known and status in (Status.FAILED, Status.CANCELLED)
    has_finished_steps = any(step.done for step in execution.steps)
    return Actions(
        cancel=not status.ended
        and execution.phase is not Phase.CANCELLING
        and Scope.CANCEL in scopes,
        retry=retry,
        retry_from_start=retry and execution.type is TargetType.PIPELINE and has_finished_steps,
        again=may_start and is_known,
        redeliver=may_start,
    )


def _progress(execution: Execution) -> tuple[float | None, str]:
    """How far a running one is: in percent, and in words."""
    if execution.status is not Status.RUNNING:
        return None, ""
    progress = execution.progress or Progress(0, 1)
    parts = [f"{progress.percentage:.0f} %"]
    if execution.type is TargetType.PIPELINE:
        parts.append(f"{progress.finished} of {progress.total} steps")
    if progress.step_name:
        parts.append(progress.step_name)
    return progress.percentage, " · ".join(parts)


def _attempt(attempt: Attempt, end: datetime) -> AttemptRow:
    seconds = ((attempt.ended_at or end) - attempt.started_at).total_seconds()
    return AttemptRow(attempt, _why(attempt), seconds)


def _why(attempt: Attempt) -> str:
    """Why an attempt ended, in words."""
    if attempt.error:
        return attempt.error
    words = {
        "running": "It is running.",
        "completed": "It returned its outputs.",
        "cancelled": "It was cancelled.",
        "lost": "Its process died, or its worker stopped to report.",
        "released": "Its worker was stopped.",
    }
    return words.get(attempt.outcome, "")


def _outputs(execution: Execution) -> Shown | None:
    if execution.status is not Status.COMPLETED:
        return None
    return shown(b"{}" if execution.outputs is None else execution.outputs)


def partial(execution: Execution) -> Partial:
    """The outputs of finished steps. A completed execution has outputs of its own, which say the
    same.
    """
    if execution.status is Status.COMPLETED:
        return Partial()
    outputs = list(execution.step_outputs.items())
    last = outputs[-MOST_OUTPUTS:]
    found = tuple((key, shown(text, beside=len(last))) for key, text in last)
    return Partial(found, len(outputs) - len(found))


_STATES = {
    DeliveryStatus.PENDING: ("pending", "in the queue"),
    DeliveryStatus.SENDING: ("running", "sending"),
    DeliveryStatus.WAITING: ("pending", "waiting for its next try"),
    DeliveryStatus.DELIVERED: ("completed", "delivered"),
    DeliveryStatus.FAILED: ("failed", "failed"),
    DeliveryStatus.STOPPED: ("cancelled", "stopped"),
}


def _delivery(delivery: Delivery) -> DeliveryRow:
    last = delivery.tries[-1] if delivery.tries else None
    state, word = _STATES[delivery.status]
    return DeliveryRow(
        delivery,
        state,
        word,
        last_code="" if last is None or last.code is None else str(last.code),
        why=delivery.error or (last.error or "" if last else ""),
    )
