"""A run that stops without being asked has failed, whatever its flow does to look stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.providers.base import ModelProvider, Stopped
from app.runtime.context import FlowContext
from app.runtime.errors import RunFailed
from app.runtime.stop import StopSignal

TARGETS = pytest.mark.parametrize("target", ["coded", "line"])

RAISES = """
from app.providers.base import Stopped
def run(inputs, context):
    raise Stopped
"""

RAISES_IN_A_COROUTINE = """
from app.providers.base import Stopped
async def run(inputs, context):
    raise Stopped
"""

CANCELS_ITSELF = """
import asyncio
async def run(inputs, context):
    asyncio.current_task().cancel()
    await asyncio.sleep(1)
"""

REQUESTS = """
def run(inputs, context):
    context._context.stop.request()  # not part of the documented interface
    raise RuntimeError("I give up")
"""

ASKS = """
def run(inputs, context):
    return context.complete([{"role": "user", "content": "hi"}]).text
"""


class CancelledModel(ModelProvider):
    """A provider whose call was cancelled, but not by the run."""

    def complete(self, *args: Any, **options: Any) -> Any:
        raise Stopped


@TARGETS
@pytest.mark.parametrize(
    "source",
    [RAISES, RAISES_IN_A_COROUTINE, CANCELS_ITSELF, REQUESTS],
    ids=["raises", "raises_in_a_coroutine", "cancels_itself", "requests"],
)
def test_a_flow_that_stops_by_itself_has_failed(
    run_code: Callable, source: str, target: str
) -> None:
    with pytest.raises(RunFailed):
        run_code(source, target=target)


@TARGETS
def test_a_model_call_that_nobody_asked_to_stop_has_failed(run_code: Callable, target: str) -> None:
    with pytest.raises(RunFailed) as failed:
        run_code(ASKS, target=target, models=CancelledModel())
    assert failed.value.failure.message == "The flow stopped without being asked to."


@TARGETS
def test_a_run_that_was_asked_to_stop_has_stopped(run_code: Callable, target: str) -> None:
    stop = StopSignal()
    threading.Timer(0.2, stop.request).start()
    waits = """
    import time
    def run(inputs, context):
        while not context.cancelled:
            time.sleep(0.01)
        raise RuntimeError("because it was asked to")
    """
    with pytest.raises(Stopped):
        run_code(waits, target=target, stop=stop)


def test_a_flow_sees_what_the_documentation_names_and_nothing_else() -> None:
    named = {"execution_id", "attempt", "config", "step_key", "progress", "cancelled", "log"}
    named |= {"complete", "acomplete", "traceparent"}
    assert {name for name in dir(FlowContext) if not name.startswith("_")} == named


def test_a_flow_cannot_change_what_the_service_acts_on(run_code: Callable) -> None:
    source = """
    def run(inputs, context):
        found = []
        for name in ("execution_id", "attempt", "step_key", "cancelled", "config", "usage"):
            try:
                setattr(context, name, None)
            except AttributeError:
                found.append(name)
        context.config["budget"]["max_steps"] = 1_000
        for _ in range(3):
            context.complete("hi")
        return found
    """

    class Model(ModelProvider):
        def complete(self, *args: Any, **options: Any) -> Any:
            from app.providers.base import Completion

            return Completion("hi", "m")

    with pytest.raises(RunFailed) as failed:
        run_code(source, models=Model(), budget={"max_steps": 2})
    assert failed.value.failure.type == "BudgetExceeded"
