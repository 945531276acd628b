"""Chains of LangChain and graphs of LangGraph, with the real packages and models that are made up.

tests/worker/test_langchain_examples.py has them in a whole service.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.providers.base import Stopped
from app.runtime.errors import RunFailed
from app.runtime.stop import StopSignal
from tests.support.runtime import Shown
from tests.support.service import ROOT

COMMON = """
import asyncio, itertools, operator, time
from dataclasses import dataclass, field
from typing import Annotated, TypedDict
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from pydantic import BaseModel

USED = dict(
    usage_metadata={"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    response_metadata={"model_name": "m1", "finish_reason": "stop"},
)
def answering(**reported):
    return GenericFakeChatModel(messages=(AIMessage("hi", **reported) for _ in itertools.count()))
model = answering(**USED)
chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | model

class State(TypedDict):
    seen: Annotated[list, operator.add]

def line(kind, *nodes, **options):
    graph, before = StateGraph(kind), START
    for node in nodes:
        graph.add_node(node); graph.add_edge(before, node.__name__); before = node.__name__
    graph.add_edge(before, END)
    return graph.compile(**options)

def loop(kind, node, again=lambda state: True):
    graph = StateGraph(kind)
    graph.add_node(node); graph.add_edge(START, node.__name__)
    graph.add_conditional_edges(node.__name__, lambda state: node.__name__ if again(state) else END)
    return graph.compile().with_config(recursion_limit=100_000)
"""


@pytest.fixture
def run(run_code: Callable[..., Any]) -> Callable[..., Any]:
    """`run(source, inputs, flow="flow", ...)`, with `COMMON` before the source."""

    def run(
        source: str, inputs: dict[str, Any] | None = None, flow: str = "flow", **ports: Any
    ) -> Any:
        return run_code(COMMON + textwrap.dedent(source), inputs, flow, **ports)

    run.recorder = run_code.recorder  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    ("content", "output"),
    [
        ("'Hello.'", "Hello."),
        ("[{'type': 'reasoning', 'reasoning': 'Hm.'}, {'type': 'text', 'text': 'a'}, 'b']", "ab"),
        ("[{'type': 'image', 'url': 'https://x.example'}]", ""),
        ("''", ""),
    ],
)
def test_a_message_at_the_end_becomes_its_text(
    run: Callable[..., Any], content: str, output: str
) -> None:
    source = f"flow = RunnableLambda(lambda inputs: AIMessage({content}))"
    assert run(source)["output"] == output


def test_the_tool_calls_of_a_message_at_the_end_are_kept(run: Callable[..., Any]) -> None:
    call = {"name": "f", "args": {"a": 1}, "id": "c1"}
    outputs = run(f"flow = RunnableLambda(lambda inputs: AIMessage('', tool_calls=[{call}]))")
    assert outputs["output"] == ""
    assert outputs["metadata"]["tool_calls"] == [{**call, "type": "tool_call"}]


def test_messages_of_a_graph_become_objects_that_it_takes_again(run: Callable[..., Any]) -> None:
    source = """
    def answer(state): return {"messages": [model.invoke(state["messages"])]}
    flow = line(MessagesState, answer)
    """
    first = run(source, {"messages": [{"role": "user", "content": "Hi."}]})["output"]["messages"]
    assert [(message["type"], message["content"]) for message in first] == [
        ("human", "Hi."),
        ("ai", "hi"),
    ]
    second = run(source, {"messages": first})["output"]["messages"]
    assert [message["id"] for message in second[:2]] == [message["id"] for message in first]


@pytest.mark.parametrize(
    "source",
    [
        "flow = chain",
        "def flow(inputs): return chain.invoke(inputs).content",
        "async def flow(inputs): return (await chain.ainvoke(inputs)).content",
        "async def flow(inputs): return await asyncio.to_thread(lambda: chain.invoke(inputs).content)",
        "def flow(inputs): return chain.batch([inputs])[0].content",
        "def flow(inputs): return ''.join(part.content for part in chain.stream(inputs))",
        "def flow(): return chain",
    ],
)
def test_tokens_that_messages_report_count(run: Callable[..., Any], source: str) -> None:
    outputs = run(source, {"q": "?"})
    assert outputs["output"] == "hi"
    metadata = outputs["metadata"]
    if "stream" not in source:  # this model's parts report nothing
        assert metadata["model_used"] == "m1"
        assert (metadata["tokens_used"], metadata["input_tokens"]) == (15, 10)
        assert metadata["finish_reason"] == "stop"
    else:
        assert metadata["estimated_tokens"] > 0


def test_a_model_that_reports_no_tokens_is_estimated(run: Callable[..., Any]) -> None:
    source = "flow = ChatPromptTemplate.from_messages([('user', '{q}')]) | answering()"
    metadata = run(source, {"q": "x" * 400})["metadata"]
    assert metadata["tokens_used"] is None
    assert metadata["estimated_tokens"] == 101


IMPORTS_INSIDE = f"""
import sys, tempfile
from pathlib import Path
from app import catalog
from tests.support.runtime import Recorder

assert "langchain_core" not in sys.modules
flow = '''
def run(inputs):
{textwrap.indent(COMMON, "    ")}
    return chain.invoke(inputs).content
'''
folder = Path(tempfile.mkdtemp()) / "coded"
folder.mkdir()
(folder / "flow.py").write_text(flow)
(folder / "agent.yaml").write_text('flows: [{{name: main, entrypoint: "flow.py:run"}}]')
print(Recorder().run(catalog.load([folder.parent], []), "coded", {{"q": "?"}}))
"""


def in_a_process_of_its_own(program: str, folder: Path) -> str:
    """What a program prints, in a process that has not imported LangChain."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tokens_count_in_the_first_run_of_a_process_that_imports_langchain_inside_of_its_flow(
    tmp_path: Path,
) -> None:
    printed = in_a_process_of_its_own(IMPORTS_INSIDE, tmp_path)
    assert "'tokens_used': 15" in printed


def test_a_version_of_langchain_that_cannot_be_followed_still_runs(tmp_path: Path) -> None:
    # None in `sys.modules` makes the import fail, as the handler's does without its base class.
    broken = 'import sys; sys.modules["app.runtime.langchain_handler"] = None\n'
    printed = in_a_process_of_its_own(broken + IMPORTS_INSIDE, tmp_path)
    assert "'output': 'hi'" in printed
    assert "langchain_not_followed" in printed


SPENDS = """
async def ask(state): return {"messages": [await model.ainvoke(state["messages"])]}
graph = loop(MessagesState, ask)
def ask_in_a_thread(state): return {"messages": [model.invoke(state["messages"])]}
plain = loop(MessagesState, ask_in_a_thread)
def by_function(inputs): return plain.invoke(inputs)
async def by_task(inputs): return await graph.ainvoke(inputs)
def swallows(inputs):
    for _ in range(1000):
        try: plain.invoke(inputs)
        except BaseException: pass
    return "nothing happened"
falls_back = chain.with_fallbacks([chain]) | RunnableLambda(lambda _: {"q": "?"})
def many(inputs):
    while True: falls_back.invoke({"q": "?"})
"""


@pytest.mark.parametrize("flow", ["graph", "plain", "by_function", "by_task", "swallows", "many"])
@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"max_tokens": 40}, "The run has used 45 tokens; config.budget.max_tokens is 40."),
        ({"max_steps": 3}, "The run has used 3 model calls; config.budget.max_steps is 3."),
    ],
)
def test_a_spent_budget_ends_a_graph(
    run: Callable[..., Any], flow: str, budget: dict[str, int], reason: str
) -> None:
    with pytest.raises(RunFailed) as raised:
        run(SPENDS, {"messages": [{"role": "user", "content": "Hi."}]}, flow, budget=budget)
    assert raised.value.failure.type == "BudgetExceeded"
    assert raised.value.failure.message == reason
    assert not raised.value.retryable


@pytest.mark.parametrize(
    "source",
    [
        "flow = loop(State, node)",
        "def flow(inputs): return loop(State, node).invoke(inputs)",
        "async def flow(inputs): return await loop(State, node).ainvoke(inputs)",
    ],
)
def test_a_cancel_is_heeded_between_nodes(run: Callable[..., Any], source: str) -> None:
    stop = StopSignal()
    threading.Timer(0.3, stop.request).start()
    node = 'def node(state): time.sleep(0.01); return {"seen": []}\n'
    with pytest.raises(Stopped):
        run(node + source, {"seen": []}, stop=stop)


def progress(run: Any) -> list[tuple[int, int, str | None]]:
    return [(report.finished, report.total, report.step_name) for report in run.recorder.reports]


def test_each_node_of_a_graph_is_a_step(run: Callable[..., Any]) -> None:
    run(
        """
        def plan(state): return {"seen": ["plan"]}
        async def work(state): return {"seen": ["work"]}
        def check(state): return {"seen": ["check"]}
        flow = line(State, plan, work, check)
        """,
        {"seen": []},
    )
    assert progress(run) == [(0, 3, "plan"), (1, 3, "work"), (2, 3, "check"), (3, 3, None)]


def test_progress_of_a_loop_grows_and_is_full_only_at_the_end(run: Callable[..., Any]) -> None:
    source = """
    def node(state): return {"seen": [1]}
    flow = loop(State, node, lambda state: len(state["seen"]) < 4)
    """
    assert run(source, {"seen": []})["output"] == {"seen": [1, 1, 1, 1]}
    assert progress(run) == [
        *((done, done + 1, "node") for done in range(4)),
        (4, 4, None),
    ]


def test_parallel_nodes_and_subgraphs_count_once(run: Callable[..., Any]) -> None:
    run(
        """
        async def work(state): await asyncio.sleep(0.01); return {"seen": ["work"]}
        def inner(state): return {"seen": ["inner"]}
        async def calls(state): return await line(State, inner, work).ainvoke({"seen": []})
        graph = StateGraph(State)
        graph.add_node(work); graph.add_node(calls); graph.add_node("sub", line(State, inner))
        graph.add_conditional_edges(START, lambda state: [Send("work", state)] * 3, ["work"])
        graph.add_edge("work", "sub"); graph.add_edge("sub", "calls")
        flow = graph.compile()
        """,
        {"seen": []},
    )
    reported = progress(run)
    assert reported[-1] == (5, 5, None)
    assert {name for _, _, name in reported} <= {"work", "sub", "calls", None}
    shares = [done / total for done, total, _ in reported]
    assert shares == sorted(shares)
    assert 1 not in shares[:-1]


def test_a_function_that_calls_graphs_reports_its_own_progress(run: Callable[..., Any]) -> None:
    run(
        """
        def node(state): return {"seen": [1]}
        graph = line(State, node)
        def flow(inputs, context):
            for done in range(3):
                context.progress(done, 3, f"text {done}")
                graph.invoke(inputs)
        """,
        {"seen": []},
    )
    assert progress(run) == [(done, 3, f"text {done}") for done in range(3)]


@pytest.mark.parametrize(
    "state",
    ["class Made(BaseModel):\n    n: int", "@dataclass\nclass Made:\n    n: int = 0"],
    ids=["pydantic", "dataclass"],
)
def test_states_of_other_kinds_become_objects(run: Callable[..., Any], state: str) -> None:
    source = f"{state}\ndef add(state): return {{'n': state.n + 1}}\nflow = line(Made, add)"
    assert run(source, {"n": 1})["output"] == {"n": 2}


def test_a_synchronous_checkpointer_works(run: Callable[..., Any]) -> None:
    source = """
    SAVER = '''class Saver(InMemorySaver):
        async def aget_tuple(self, config): raise NotImplementedError
    '''
    # In a library's file: what a file of the flow raises is the flow's failure.
    exec(compile(SAVER, "/a/library.py", "exec"))
    def node(state): return {"seen": [1]}
    flow = line(State, node, checkpointer=Saver())
    """
    assert run(source, {"seen": []})["output"] == {"seen": [1]}


def test_a_graph_without_an_end_fails_by_its_limit(run: Callable[..., Any]) -> None:
    with pytest.raises(RunFailed) as raised:
        run(
            """
            def node(state): return {"seen": []}
            flow = loop(State, node).with_config(recursion_limit=5)
            """,
            {"seen": []},
        )
    assert raised.value.failure.type == "GraphRecursionError"
    assert "limit of 5" in raised.value.failure.message


def test_a_model_that_streams_by_itself_is_shown_to_those_who_listen(
    run: Callable[..., Any],
) -> None:
    source = """
    async def flow(inputs):
        words = GenericFakeChatModel(messages=iter([AIMessage("one two three")]))
        return "".join([chunk.content async for chunk in words.astream("count")])
    """
    shown, unseen = Shown(listened=True), Shown()
    assert run(source, live=shown)["output"] == "one two three"
    assert run(source, live=unseen)["output"] == "one two three"
    assert "".join(text for _, _, text in shown.texts) == "one two three"
    assert {call for _, call, _ in shown.texts} == {1}
    assert len(shown.texts) > 1
    assert unseen.texts == []
