"""The drawing of an execution's time: where bars are, and what is written beside them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from app.domain.events import Event
from app.domain.execution import (
    Attempt,
    Execution,
    Failure,
    ModelUsage,
    Phase,
    Status,
    StepRecord,
    StepStatus,
    TargetType,
)
from app.pages.time_axis import Bar
from app.pages.waterfall import MOST_STEPS, Row, Try, tries_of, waterfall

BEGIN = datetime(2026, 11, 27, 1, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def attempt(number: int, start: float, end: float | None, outcome: str) -> Attempt:
    return Attempt(number, "worker", at(start), None if end is None else at(end), outcome)


def step(id: str, start: float | None = None, end: float | None = None, **more: object):
    values = {"status": StepStatus.COMPLETED, "output_key": id, "attempt": 1, **more}
    return StepRecord(
        id,
        0,
        started_at=None if start is None else at(start),
        ended_at=None if end is None else at(end),
        **values,  # type: ignore[arg-type]
    )


def run(*steps: StepRecord, ended: float | None = 10, **more: object) -> Execution:
    values = {
        "status": Status.RUNNING if ended is None else Status.COMPLETED,
        "phase": None,
        "attempts": (attempt(1, 0, ended, "running" if ended is None else "completed"),),
        "attempt": 1,
        **more,
    }
    return Execution(
        "exec_1",
        TargetType.PIPELINE,
        "review",
        created_at=at(0),
        ended_at=None if ended is None else at(ended),
        steps=steps,
        **values,  # type: ignore[arg-type]
    )


def places(row: Row) -> list[tuple[str, float, float]]:
    return [(bar.kind, bar.left, bar.width) for bar in row.bars]


def test_a_bar_is_where_its_step_was_in_the_time_of_the_execution() -> None:
    whole, first, second = waterfall(run(step("a", 0, 4), step("b", 4, 10)), at(99)).rows
    assert places(whole) == [("completed", 0, 100)]
    assert places(first) == [("completed", 0, 40)]
    assert places(second) == [("completed", 40, 60)]
    assert second.seconds == 6


def test_steps_that_ran_side_by_side_overlap() -> None:
    _, left, right = waterfall(run(step("a", 1, 6), step("b", 2, 8)), at(99)).rows
    assert left.bars[0].left < right.bars[0].left < left.bars[0].left + left.bars[0].width


def test_what_runs_reaches_until_now() -> None:
    running = step("a", 5, status=StepStatus.RUNNING)
    whole, row = waterfall(run(running, ended=None), at(20)).rows
    assert places(whole) == [("running", 0, 100)]
    assert places(row) == [("running", 25, 75)]
    assert row.seconds == 15


def test_a_step_waits_from_the_end_of_those_before_it() -> None:
    after = {"c": frozenset({"a", "b"})}
    rows = waterfall(run(step("a", 0, 2), step("b", 0, 4), step("c", 7, 10)), at(99), after).rows
    assert places(rows[3]) == [("wait", 40, 30), ("completed", 70, 30)]
    assert rows[3].bars[0].title == "waited, 3.00 s"


def test_a_step_that_is_ready_and_has_not_begun_waits_until_now() -> None:
    after = {"b": frozenset({"a"}), "c": frozenset({"b"})}
    pending = {"status": StepStatus.PENDING, "attempt": 0}
    steps = (step("a", 0, 5), step("b", **pending), step("c", **pending))
    _, _, ready, blocked = waterfall(run(*steps, ended=None), at(10), after).rows
    assert places(ready) == [("wait", 50, 50)]
    assert blocked.bars == ()


def test_earlier_tries_of_a_step_and_the_pauses_between_them_are_drawn() -> None:
    tries = {"a": (Try(at(0), at(2), "failed"), Try(at(3), at(4), "failed"))}
    [_, row] = waterfall(run(step("a", 6, 10, attempt=3)), at(99), tries=tries).rows
    assert places(row) == [
        ("failed", 0, 20),
        ("wait", 20, 10),
        ("failed", 30, 10),
        ("wait", 40, 20),
        ("completed", 60, 40),
    ]
    assert row.attempt == 3


def test_a_step_that_waits_for_its_next_try_shows_the_tries_before() -> None:
    tries = {"a": (Try(at(0), at(5), "failed"),)}
    waiting = step("a", status=StepStatus.PENDING)
    [_, row] = waterfall(run(waiting, ended=None), at(10), tries=tries).rows
    assert places(row) == [("failed", 0, 50), ("wait", 50, 50)]


def test_the_try_that_is_in_the_record_is_drawn_once() -> None:
    tries = {"a": (Try(at(0), at(2), "failed"), Try(at(5), at(10), "completed"))}
    [_, row] = waterfall(run(step("a", 5, 10, attempt=2)), at(99), tries=tries).rows
    assert [bar.kind for bar in row.bars] == ["failed", "wait", "completed"]


def test_attempts_of_the_execution_and_the_waits_between_them_are_in_its_own_row() -> None:
    attempts = (attempt(1, 2, 4, "failed"), attempt(2, 6, 7, "lost"), attempt(3, 8, 10, "failed"))
    row = waterfall(run(attempts=attempts, attempt=3, status=Status.FAILED), at(99)).rows[0]
    assert [(bar.kind, bar.left) for bar in row.bars] == [
        ("wait", 0),
        ("failed", 20),
        ("wait", 40),
        ("lost", 60),
        ("wait", 70),
        ("failed", 80),
    ]


def test_an_execution_that_waits_for_its_next_attempt_waits_until_now() -> None:
    waiting = run(
        ended=None,
        status=Status.PENDING,
        phase=Phase.RETRY_WAIT,
        attempts=(attempt(1, 0, 5, "failed"),),
    )
    assert places(waterfall(waiting, at(20)).rows[0]) == [("failed", 0, 25), ("wait", 25, 75)]


def test_an_execution_that_has_never_begun_waits() -> None:
    pending = run(ended=None, status=Status.PENDING, attempts=(), attempt=0)
    [row] = waterfall(pending, at(5)).rows
    assert places(row) == [("wait", 0, 100)]
    assert row.seconds is None


def test_a_long_wait_before_the_first_start_does_not_hide_what_happened_then() -> None:
    late = run(step("a", 100, 110), ended=110, attempts=(attempt(1, 100, 110, "completed"),))
    drawn = waterfall(late, at(999))
    assert drawn.left_out_seconds == 100
    assert places(drawn.rows[1]) == [("completed", 0, 100)]


def test_a_step_that_an_earlier_execution_finished_has_no_bar() -> None:
    kept, own = step("a", -50, -40), step("b", 0, 10)
    _, row, other = waterfall(run(kept, own), at(99), {"b": frozenset({"a"})}).rows
    assert row.kept
    assert row.bars == ()
    assert row.seconds == 10
    assert places(other) == [("completed", 0, 100)]


def test_what_took_no_time_can_be_seen_and_nothing_is_outside() -> None:
    steps = (step("a", 0, 0), step("b", 10, 10), step("c", 9, 40), step("d", 3, 1))
    for row in waterfall(run(*steps), at(99)).rows:
        for bar in row.bars:
            assert bar.width > 0
            assert bar.left >= 0
            assert bar.left + bar.width <= 100.5


def test_an_execution_without_length_can_be_drawn() -> None:
    drawn = waterfall(run(step("a", 0, 0), ended=0), at(0))
    assert isinstance(drawn.rows[0].bars[0], Bar)
    assert drawn.ticks == ()


def test_the_axis_has_round_times() -> None:
    def texts(seconds: float) -> list[str]:
        return [tick.text for tick in waterfall(run(ended=seconds), at(0)).ticks]

    assert texts(0.9) == ["0", "0.2 s", "0.4 s", "0.6 s", "0.8 s"]
    assert texts(10) == ["0", "2 s", "4 s", "6 s", "8 s", "10 s"]
    assert texts(100) == ["0", "20 s", "40 s", "60 s", "80 s", "100 s"]
    assert texts(5000) == ["0", "20 min", "40 min", "60 min", "80 min"]
    assert texts(1_000_000) == ["0", "2 d", "4 d", "6 d", "8 d", "10 d"]


def test_a_row_says_with_which_model_and_why_it_failed() -> None:
    use = {"gpt": ModelUsage(2, 10, 5, 15, estimated_tokens=7), "local": ModelUsage(1, 1, 1, 2)}
    failed = step(
        "a",
        0,
        10,
        status=StepStatus.FAILED,
        agent="writer",
        flow="default",
        usage=use,
        failure=Failure("ValueError", "No <b>."),
        items={0: None, 1: Failure("KeyError", "x")},
        warnings=("odd",),
    )
    drawn = waterfall(run(failed), at(99))
    row = drawn.rows[1]
    assert (row.model, row.tokens, row.estimated_tokens) == ("local", 17, 7)
    assert (row.failure, row.items) == ("ValueError: No <b>.", "2 items ended, 1 failed")
    assert (row.what, row.warnings) == ("writer · default", ("odd",))
    assert drawn.has_models
    assert not waterfall(run(step("a", 0, 10)), at(99)).has_models


def test_an_agent_has_one_row() -> None:
    agent = replace(run(step("a", 0, 10)), type=TargetType.AGENT)
    assert len(waterfall(agent, at(99)).rows) == 1


def event(seconds: float, type: str, **data: object) -> Event:
    return Event(1, type, at(seconds), data)


def test_tries_are_read_from_the_events_of_steps() -> None:
    events = [
        event(0, "step.started", step="a", attempt=1),
        event(0, "step.started", step="b", attempt=1),
        event(1, "step.failed", step="a", attempt=1),
        event(2, "step.started", step="a", attempt=2),
        event(3, "retrying", attempt=1),
        event(4, "step.completed", step="never started"),
        event(5, "step.started", step="a", attempt=3),
        event(6, "step.completed", step="a", attempt=3),
    ]
    assert tries_of(events) == {
        "a": (
            Try(at(0), at(1), "failed"),
            Try(at(2), at(3), "lost"),
            Try(at(5), at(6), "completed"),
        ),
        "b": (Try(at(0), at(3), "lost"),),
    }


def test_of_many_steps_those_are_drawn_that_run_that_failed_and_that_started_last() -> None:
    done = [step(f"done{number:03}", number, number + 1) for number in range(300)]
    failed = step("failed", 0, 1, status=StepStatus.FAILED)
    running = step("running", 5, status=StepStatus.RUNNING)
    later = [step(f"later{number}", status=StepStatus.PENDING) for number in range(5)]
    drawn = waterfall(run(running, failed, *done, *later, ended=None), at(400))
    names = [row.name for row in drawn.rows[1:]]
    assert names == ["running", "failed", *(f"done{number}" for number in range(102, 300))]
    assert drawn.left_out_steps == 107
    assert waterfall(run(*done[:MOST_STEPS]), at(400)).left_out_steps == 0
