"""The context of a flow: what it offers, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.execution import Progress
from app.providers.base import Completion, ModelProvider
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


def test_zero_of_zero_steps_is_no_error_and_no_report(
    context: Context, reports: list[Progress]
) -> None:
    context.progress(0, 0)
    context.progress(0, 0, "an empty list")
    assert reports == []
    context.progress(0, 3)
    context.progress(1, 3, "one")
    assert reports == [Progress(0, 3), Progress(1, 3, "one")]


@pytest.mark.parametrize("steps", [(1, 0), (2, 1), (-1, 0), (0, -1), (0.0, 0), (True, 1), ("0", 0)])
def test_invalid_progress_is_refused(context: Context, reports: list[Progress], steps: Any) -> None:
    with pytest.raises(ValueError, match="progress"):
        context.progress(*steps)
    assert reports == []


class Meeting(ModelProvider):
    """Answers only once two calls are waiting at the same time, and notes their threads."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2, timeout=20)

    def complete(self, *args: Any, **options: Any) -> Completion:
        self._both.wait()
        return Completion("met", "m", total_tokens=3)


def test_an_asynchronous_flow_calls_a_model_without_blocking_others(run_code: Callable) -> None:
    source = """
    import asyncio
    async def run(inputs, context):
        asked = [context.acomplete([{"role": "user", "content": "hi"}]) for _ in range(2)]
        return [answer.text for answer in await asyncio.gather(*asked)]
    """
    outputs = run_code(source, models=Meeting())
    assert outputs["output"] == ["met", "met"]
    assert outputs["metadata"]["tokens_used"] == 6


def test_a_context_is_not_sent_to_another_process(run_code: Callable) -> None:
    source = """
    import pickle
    def run(inputs, context):
        try:
            pickle.dumps(context)
        except TypeError as error:
            return str(error)
    """
    assert run_code(source)["output"] == "The context of a flow cannot be sent to another process."
