"""The figures of a target's last runs, and what is told of its steps and flows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.catalog.model import Agent, Output, Pipeline, PromptFlow, PythonFlow, Source, Step
from app.domain.execution import Execution, Status, TargetType
from app.pages.target_facts import ROWS, flows, recent, steps

NOW = datetime(2026, 1, 5, 10, 30, tzinfo=UTC)


def run(status: Status, seconds: float | None = None) -> Execution:
    started = None if seconds is None else NOW - timedelta(seconds=seconds)
    return Execution(
        "exec_1",
        TargetType.AGENT,
        "a",
        status,
        None,
        NOW,
        started_at=started,
        ended_at=NOW if status.ended else None,
    )


C, F, X, R, P = (
    Status.COMPLETED,
    Status.FAILED,
    Status.CANCELLED,
    Status.RUNNING,
    Status.PENDING,
)


@pytest.mark.parametrize(
    ("statuses", "completed", "judged", "rate"),
    [
        ([], 0, 0, None),
        ([R, P], 0, 0, None),
        ([C], 1, 1, 100.0),
        ([F], 0, 1, 0.0),
        ([C, F, C, C], 3, 4, 75.0),
        ([C, X, X, R, P, F], 1, 2, 50.0),
    ],
)
def test_the_success_rate_is_of_the_runs_that_completed_or_failed(
    statuses: list[Status], completed: int, judged: int, rate: float | None
) -> None:
    found = recent([run(status) for status in statuses], len(statuses), NOW)
    assert (found.completed, found.judged, found.success_rate) == (completed, judged, rate)


@pytest.mark.parametrize(
    ("runs", "seconds"),
    [
        ([], None),
        ([run(F, 5), run(R, 9)], None),
        ([run(C, 4)], 4.0),
        ([run(C, 1), run(C, 100), run(C, 3), run(F, 50)], 3.0),
        ([run(C, 2), run(C, 4)], 3.0),
        ([run(C)], None),  # an old record may lack its start
    ],
)
def test_the_median_is_of_the_completed_runs(runs: list[Execution], seconds: float | None) -> None:
    assert recent(runs, len(runs), NOW).median_seconds == seconds


def test_only_the_newest_runs_are_shown_but_all_count() -> None:
    found = recent([run(C)] * 30 + [run(F)] * 20, 1000, NOW)
    assert (len(found.rows), found.judged, found.total) == (ROWS, 50, 1000)


def test_a_step_tells_what_it_reads_and_whether_its_output_is_a_result() -> None:
    sources = {"text": Source("sections", (0,)), "tone": Source(None, value="formal")}
    first = Step("first", "points", agent="writer", flow="llm", input_mapping=sources)
    last = Step("last", "end", agent="writer", depends_on=frozenset({"first"}))
    what = Pipeline("p", (first, last), (Output("end", "The end"),), "thread")
    one, two = steps(what)
    assert one.reads == (("text", "sections[0]"), ("tone", '"formal"'))
    assert (one.work, one.result, one.after) == ("writer, llm", None, ())
    assert (two.result, two.after) == ("The end", ("first",))


def test_a_flow_tells_where_it_runs() -> None:
    all_flows = {
        "prompt": PromptFlow("prompt", "{{ text }}"),
        "code": PythonFlow("code", "f.py:run", Path()),
        "fresh": PythonFlow("fresh", "f.py:run", Path(), fresh=True),
    }
    rows = flows(Agent("a", all_flows, "code"))
    assert [(row.name, row.where, row.is_default) for row in rows] == [
        ("prompt", "a thread", False),
        ("code", "a process", True),
        ("fresh", "a fresh process", False),
    ]
