"""What a flow says of its progress."""

from __future__ import annotations

from typing import Any

import pytest

from app.executions.model import Progress
from app.runtime.context import Context
from app.runtime.stop import StopSignal
from app.runtime.usage import Budget, Usage
from tests.support.runtime import NoModel


@pytest.fixture
def reports() -> list[Progress]:
    return []


@pytest.fixture
def context(reports: list[Progress]) -> Context:
    usage = Usage()
    return Context(
        execution_id="exec_1",
        attempt=1,
        config={},
        step_key="exec_1:a",
        stop=StopSignal(),
        models=NoModel(),
        usage=usage,
        budget=Budget({}, usage, counts_calls=True),
        log=lambda *_, **__: None,
        report=reports.append,
    )


def test_nothing_of_nothing_is_no_error_and_no_report(context: Context, reports: list[Progress]) -> None:
    context.progress(0, 0)
    context.progress(0, 0, "an empty list")
    assert reports == []
    context.progress(0, 3)
    context.progress(1, 3, "one")
    assert reports == [Progress(0, 3), Progress(1, 3, "one")]


@pytest.mark.parametrize("steps", [(1, 0), (2, 1), (-1, 0), (0, -1), (0.0, 0), (True, 1), ("0", 0)])
def test_what_is_no_progress_is_refused(context: Context, reports: list[Progress], steps: Any) -> None:
    with pytest.raises(ValueError, match="progress"):
        context.progress(*steps)
    assert reports == []
