"""Lays out what an execution did and when: a row for itself and one for each step of its pipeline.

A pure function of values: the template `waterfall.html` draws it. Places are percentages of the
width, so the drawing fits any screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from app.domain.events import Event
from app.domain.execution import (
    Execution,
    StepRecord,
    StepStatus,
    TargetType,
    sum_of_reported,
)
from app.pages.time_axis import Axis, Bar, Tick

MIN_WAIT = 0.5
"""In percent: a shorter wait of a step is not drawn."""

MOST_STEPS = 200
"""So many steps are drawn. A browser would be slow with more, and they would take the service long
at every refresh.
"""

_RANKS = {StepStatus.RUNNING: 0, StepStatus.FAILED: 1}

TRY_TYPES = frozenset({"step.started", "step.completed", "step.failed", "retrying"})


@dataclass(frozen=True, slots=True)
class Row:
    """A step, or the execution itself. `seconds` is None if it has not begun.

    `kept`: an earlier execution had finished it, so this one did not run it.
    """

    name: str
    what: str
    state: str
    bars: tuple[Bar, ...]
    seconds: float | None = None
    attempt: int = 0
    model: str = ""
    tokens: int | None = None
    estimated_tokens: int = 0
    failure: str = ""
    warnings: tuple[str, ...] = ()
    items: str = ""
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Waterfall:
    """`left_out_seconds` were waited before the drawing begins. `left_out_steps` have no row."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    left_out_seconds: float = 0.0
    left_out_steps: int = 0

    @property
    def has_models(self) -> bool:
        """Whether any row has a model or tokens to show."""
        return any(row.model or row.tokens or row.estimated_tokens for row in self.rows)


@dataclass(frozen=True, slots=True)
class Try:
    """A try of a step that is over."""

    started_at: datetime
    ended_at: datetime
    kind: str


def waterfall(
    execution: Execution,
    now: datetime,
    after: Mapping[str, frozenset[str]] | None = None,
    tries: Mapping[str, tuple[Try, ...]] | None = None,
) -> Waterfall:
    """Lays out an execution. `after` names the steps that a step waits for, `tries` has those of
    steps that were tried again.
    """
    end = execution.ended_at or now
    begin, left_out = _begin(execution, end)
    axis = Axis(begin, max((end - begin).total_seconds(), 0.001))
    rows = [_own_row(execution, axis, end)]
    all_steps = execution.steps if execution.type is TargetType.PIPELINE else ()
    steps = {step.id: step for step in all_steps}
    drawn = _drawn(all_steps)
    for step in drawn:
        ready_at = _ready_at(step, steps, (after or {}).get(step.id, frozenset()), begin)
        past = (tries or {}).get(step.id, ())
        rows.append(_step_row(step, execution, axis, end, ready_at, past))
    return Waterfall(tuple(rows), axis.ticks(), left_out, len(all_steps) - len(drawn))


def _drawn(steps: tuple[StepRecord, ...]) -> tuple[StepRecord, ...]:
    """The steps that have a row, in their order. If they are too many: those that run, then those
    that failed, then those that started last.
    """
    if len(steps) <= MOST_STEPS:
        return steps

    def rank(step: StepRecord) -> tuple[int, float]:
        began = -step.started_at.timestamp() if step.started_at else math.inf
        return _RANKS.get(step.status, len(_RANKS)), began

    chosen = {step.id for step in sorted(steps, key=rank)[:MOST_STEPS]}
    return tuple(step for step in steps if step.id in chosen)


def tries_of(events: Iterable[Event]) -> dict[str, tuple[Try, ...]]:
    """The tries of steps that are over, by step. An event `retrying` ends all that run."""
    running: dict[str, datetime] = {}
    found: dict[str, list[Try]] = {}

    def end(step: str, at: datetime, kind: str) -> None:
        if started_at := running.pop(step, None):
            found.setdefault(step, []).append(Try(started_at, at, kind))

    for event in events:
        step = event.data.get("step", "")
        if event.type == "step.started":
            running[step] = event.at
        elif event.type == "retrying":
            for id in list(running):
                end(id, event.at, "lost")
        elif event.type in TRY_TYPES:
            end(step, event.at, event.type.removeprefix("step."))
    return {step: tuple(tries) for step, tries in found.items()}


def _begin(execution: Execution, end: datetime) -> tuple[datetime, float]:
    """Where the drawing begins. A wait that is longer than all the rest would hide the rest."""
    created_at = execution.created_at
    first = execution.attempts[0].started_at if execution.attempts else None
    if first is None or first - created_at <= end - first:
        return created_at, 0.0
    return first, (first - created_at).total_seconds()


def _own_row(execution: Execution, axis: Axis, end: datetime) -> Row:
    bars: list[Bar] = []
    free_from = execution.created_at
    for attempt in execution.attempts:
        if axis.share(free_from, attempt.started_at) >= MIN_WAIT:
            bars.append(axis.bar("wait", free_from, attempt.started_at, "waited"))
        free_from = attempt.ended_at or end
        what = f"attempt {attempt.number} {attempt.outcome}"
        bars.append(axis.bar(attempt.outcome, attempt.started_at, free_from, what))
    is_waiting = not execution.attempts or execution.attempts[-1].ended_at
    if is_waiting and axis.share(free_from, end) >= MIN_WAIT:
        bars.append(
            axis.bar("wait", free_from, end, "waits" if not execution.ended_at else "waited")
        )
    models = list(execution.usage)
    return Row(
        name=execution.target_id,
        what="all" if execution.type is TargetType.PIPELINE else (execution.flow or ""),
        state=execution.status,
        bars=tuple(bars),
        seconds=execution.run_seconds(end),
        attempt=execution.attempt,
        model=models[-1] if models and execution.type is TargetType.AGENT else "",
        tokens=sum_of_reported(use.total_tokens for use in execution.usage.values()),
        estimated_tokens=sum(use.estimated_tokens for use in execution.usage.values()),
    )


def _step_row(
    step: StepRecord,
    execution: Execution,
    axis: Axis,
    end: datetime,
    ready_at: datetime | None,
    tries: tuple[Try, ...],
) -> Row:
    kept = step.started_at is not None and step.started_at < execution.created_at
    models = list(step.usage)
    return Row(
        name=step.id,
        what=" · ".join(part for part in (step.agent, step.flow) if part) or "combines items",
        state=step.status,
        bars=() if kept else _step_bars(step, execution, axis, end, ready_at, tries),
        seconds=((step.ended_at or end) - step.started_at).total_seconds()
        if step.started_at
        else None,
        attempt=step.attempt,
        model=models[-1] if models else "",
        tokens=sum_of_reported(use.total_tokens for use in step.usage.values()),
        estimated_tokens=sum(use.estimated_tokens for use in step.usage.values()),
        failure=f"{step.failure.type}: {step.failure.message}" if step.failure else "",
        warnings=step.warnings,
        items=_items(step),
        kept=kept,
    )


def _step_bars(
    step: StepRecord,
    execution: Execution,
    axis: Axis,
    end: datetime,
    ready_at: datetime | None,
    tries: tuple[Try, ...],
) -> tuple[Bar, ...]:
    """The waits and tries of a step, the last of which is in its record."""
    bars: list[Bar] = []
    free_from = ready_at
    for one in tries:
        if step.started_at is None or one.ended_at <= step.started_at:
            bars += _waited(axis, free_from, one.started_at)
            bars.append(axis.bar(one.kind, one.started_at, one.ended_at, f"try {one.kind}"))
            free_from = one.ended_at
    if step.started_at:
        bars += _waited(axis, free_from, step.started_at)
        last = axis.bar(step.status, step.started_at, step.ended_at or end, step.status)
        return (*bars, last)
    if step.status is StepStatus.PENDING and not execution.status.ended:
        bars += _waited(axis, free_from, end)
    return tuple(bars)


def _waited(axis: Axis, start: datetime | None, end: datetime) -> list[Bar]:
    if start is None or axis.share(start, end) < MIN_WAIT:
        return []
    return [axis.bar("wait", start, end, "waited")]


def _ready_at(
    step: StepRecord, steps: Mapping[str, StepRecord], after: frozenset[str], begin: datetime
) -> datetime | None:
    """When the last of the steps before it ended; None if that is not known."""
    if not after:
        return None
    ends = [steps[id].ended_at for id in after if id in steps]
    known = [moment for moment in ends if moment is not None]
    return max(*known, begin) if known and len(known) == len(ends) else None


def _items(step: StepRecord) -> str:
    if not step.items:
        return ""
    failed = sum(failure is not None for failure in step.items.values())
    noun = "item" if len(step.items) == 1 else "items"
    ended = "" if step.status is StepStatus.COMPLETED else " ended"
    return f"{len(step.items)} {noun}{ended}" + (f", {failed} failed" if failed else "")
