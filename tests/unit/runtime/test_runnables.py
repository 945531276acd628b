"""Flows that are objects with `.invoke`, or functions that make them; without any library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app import catalog
from app.domain.key import DEFAULT_TENANT
from app.domain.payload import write_call
from app.providers.base import Stopped
from app.runtime.errors import RunFailed
from app.runtime.run import Run
from app.runtime.stop import StopSignal
from app.worker.child_run import ChildRun
from app.worker.live_reports import LiveReports
from app.worker.protocol import ChildSocket
from tests.support.agents import write_agent
from tests.support.runtime import Recorder

MAKERS = """
from __future__ import annotations
from contextlib import asynccontextmanager

class RunnableConfig(dict): ...

class Thing:
    def __init__(self, made_with=None): self.made_with = made_with
    def invoke(self, inputs): raise AssertionError("the asynchronous form goes first")
    async def ainvoke(self, inputs, config=None):
        return [self.made_with, inputs, config["configurable"]["thread_id"]]

class Plain:
    def invoke(self, inputs): return ["plain", inputs]

closed = []

def nothing(): return Thing("nothing")
def typed(settings: RunnableConfig): return Thing(settings["configurable"]["thread_id"])
def optional(settings: RunnableConfig | None = None): return typed(settings)
def named(config): return Thing(config["configurable"]["thread_id"])
async def waits(config: RunnableConfig): return Thing("waits")
def both(inputs, context): return Thing(context.attempt)
def plain(): return Plain()
@asynccontextmanager
async def lent():
    try: yield Thing("lent")
    finally: closed.append(1)
async def was_closed(inputs): return closed

def inputs_called_config(config: dict): return config
def with_config(inputs, settings: RunnableConfig): return settings["configurable"]["thread_id"]
async def waits_with_config(inputs, config: RunnableConfig): return config["metadata"]["execution_id"]
def with_context(inputs, config): return config.execution_id
"""


@pytest.mark.parametrize(
    ("flow", "output"),
    [
        ("nothing", ["nothing", {"x": 1}, "mine"]),
        ("typed", ["mine", {"x": 1}, "mine"]),
        ("optional", ["mine", {"x": 1}, "mine"]),
        ("named", ["mine", {"x": 1}, "mine"]),
        ("waits", ["waits", {"x": 1}, "mine"]),
        ("both", [1, {"x": 1}, "mine"]),
        ("lent", ["lent", {"x": 1}, "mine"]),
        ("Thing", [{"x": 1}, {"x": 1}, "mine"]),
        ("plain", ["plain", {"x": 1}]),
        ("Plain", ["plain", {"x": 1}]),
        ("inputs_called_config", {"x": 1}),
        ("with_config", "mine"),
        ("waits_with_config", "exec_1"),
        ("with_context", "exec_1"),
    ],
)
def test_a_function_may_make_the_object_and_gets_what_its_parameters_name(
    run_code: Callable[..., Any], flow: str, output: Any
) -> None:
    assert run_code(MAKERS, {"x": 1}, flow, thread_id="mine")["output"] == output


def test_what_a_context_manager_has_lent_is_closed_after_the_run(tmp_path: Path) -> None:
    flows = """flows:
  - {name: lent, entrypoint: "flow.py:lent"}
  - {name: was_closed, entrypoint: "flow.py:was_closed"}
"""
    write_agent(tmp_path / "agents", "coded", flows, MAKERS)
    known = catalog.load([tmp_path / "agents"], [])
    Recorder().run(known, "coded", {}, flow_id="lent")
    assert Recorder().run(known, "coded", {}, flow_id="was_closed")["output"] == [1]


THREADS = """
class Thread:
    async def ainvoke(self, inputs, config): return config["configurable"]["thread_id"]
thread = Thread()
"""


def test_a_thread_is_the_executions_or_the_one_that_its_config_names(
    run_code: Callable[..., Any],
) -> None:
    assert run_code(THREADS, {}, "thread")["output"] == "exec_1"
    assert run_code(THREADS, {}, "thread", thread_id="ann")["output"] == "ann"


def test_a_name_of_one_tenant_never_leads_into_a_thread_of_another() -> None:
    def thread(tenant: str, **config: Any) -> str:
        return Run("exec_1", 1, "agent", "chat", {}, config, tenant=tenant).thread_id

    assert thread(DEFAULT_TENANT, thread_id="ann") == "ann"
    assert thread("acme", thread_id="ann") == "acme/ann"
    assert thread(DEFAULT_TENANT, thread_id="exec_1") != thread("acme") == "acme/exec_1"


def test_a_child_knows_the_tenant_of_its_run() -> None:
    start = {"token": "t", "id": "exec_1", "attempt": 1, "traceparent": None}
    names = {"execution_id": "exec_1", "tenant": "acme"}
    call = write_call(type="agent", target_id="chat", inputs={}, config={"thread_id": "ann"})
    # Only what is needed to read it, not to run it.
    services: Any = SimpleNamespace(live=LiveReports(cast(ChildSocket, None), []))
    assert ChildRun({**start, "names": names}, call, services).run.thread_id == "acme/ann"


def test_steps_and_items_of_a_batch_have_threads_of_their_own(tmp_path: Path) -> None:
    write_agent(
        tmp_path / "agents",
        "chat",
        'flows: [{name: main, entrypoint: "flow.py:thread"}]',
        THREADS,
    )
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "talk.yaml").write_text("""
inputs: [{name: texts, type: array}]
steps:
  - {id: one, agent: chat, output_key: first}
  - {id: many, agent: chat, batch_mode: true, input_mapping: {text: texts}, output_key: others}
outputs: [{key: first}, {key: others}]
""")
    known = catalog.load([tmp_path / "agents"], [tmp_path / "pipelines"])
    outputs = Recorder().run(known, "talk", {"texts": ["a", "b"]}, thread_id="t")
    assert outputs["first"] == "t:one"
    assert outputs["others"] == ["t:many:0", "t:many:1"]


def test_a_stop_ends_an_object_that_waits(run_code: Callable[..., Any]) -> None:
    stop = StopSignal()
    threading.Timer(0.1, stop.request).start()
    with pytest.raises(Stopped):
        run_code(
            """
            import asyncio
            class Waits:
                async def ainvoke(self, inputs): await asyncio.sleep(600)
            def make(): return Waits()
            """,
            {},
            "make",
            stop=stop,
        )


def test_a_graph_that_is_not_compiled_is_told_by_that(run_code: Callable[..., Any]) -> None:
    with pytest.raises(RunFailed) as raised:
        run_code(
            """
            class Builder:
                def compile(self): ...
            builder = Builder()
            """,
            {},
            "builder",
        )
    failure = raised.value.failure
    assert failure.type == "FlowError"
    assert failure.message.endswith("has no .invoke() method. Use its .compile().")
