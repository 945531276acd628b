"""What a flow is handed beside its inputs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from app.models.base import Completion, ModelProvider


class Meeting(ModelProvider):
    """Answers when two calls are under way at once, and remembers their threads."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2, timeout=20)

    def complete(self, *args: Any, **options: Any) -> Completion:
        self._both.wait()
        return Completion("met", "m", total_tokens=3)


def test_an_asynchronous_flow_asks_a_model_without_holding_up_others(run_code: Callable) -> None:
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


def test_no_steps_at_all_is_progress_that_is_not_shown(run_code: Callable) -> None:
    source = """
    def run(inputs, context):
        items = inputs.get("items", [])
        context.progress(0, len(items))
        return len(items)
    """
    assert run_code(source)["output"] == 0
    assert run_code.recorder.reports == []  # type: ignore[attr-defined]
