"""Calls objects with `.invoke`, such as LangChain's chains and LangGraph's graphs.

`python_flow.py` asks it for the call of an entry point, and gives it what functions return: a
function may also make the object that is to run.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from app.runtime import langchain
from app.runtime.context import Context

INTERRUPTS = "__interrupt__"
"""Where LangGraph puts the questions of a graph that waits for a person."""


def is_runnable(value: Any) -> bool:
    """Whether it has `.invoke` or `.ainvoke`. A class has not: it makes objects that have."""
    return not isinstance(value, type) and any(
        callable(getattr(value, name, None)) for name in ("ainvoke", "invoke")
    )


def has_async_form(runnable: Any) -> bool:
    return callable(getattr(runnable, "ainvoke", None))


def config_for(context: Context) -> dict[str, Any]:
    """LangChain's `RunnableConfig` for a run."""
    return {
        "configurable": {"thread_id": context.thread_id},
        "metadata": {"execution_id": context.execution_id, "attempt": context.attempt},
    }


def invoke(runnable: Any, inputs: dict[str, Any], context: Context) -> Any:
    """Calls `.invoke` in this thread, for an object that has nothing else."""
    with _nodes(runnable, context):
        return outputs_of(_with_config(runnable.invoke, context)(inputs))


async def ainvoke(runnable: Any, inputs: dict[str, Any], context: Context, folder: Path) -> Any:
    """Calls `.ainvoke`, and `.invoke` if a part of the object has no asynchronous form.

    First `.ainvoke`: the asynchronous nodes of a LangGraph graph work with nothing else.
    """
    if not has_async_form(runnable):
        return await asyncio.to_thread(invoke, runnable, inputs, context)
    given = copy.deepcopy(inputs)
    try:
        with _nodes(runnable, context):
            return outputs_of(await _with_config(runnable.ainvoke, context)(inputs))
    except NotImplementedError as error:
        # If the flow's own code raises it, that is the flow's failure: a part of its work may be
        # done already, and must not be done twice.
        frames = traceback.extract_tb(error.__traceback__)
        is_own = any(Path(frame.filename).is_relative_to(folder) for frame in frames)
        if is_own or not callable(getattr(runnable, "invoke", None)):
            raise
    return await asyncio.to_thread(invoke, runnable, given, context)


def is_unfinished(returned: Any) -> bool:
    """Whether `finished` has something to do for what a function returned."""
    return inspect.isawaitable(returned) or is_runnable(returned) or _is_lent(returned)


async def finished(returned: Any, inputs: Mapping[str, Any], context: Context, folder: Path) -> Any:
    """What a flow returned, awaited. An object with `.invoke` is called: its function made it.

    With `@asynccontextmanager` it is lent, and what it needs (a checkpointer) is closed afterwards.
    """
    if inspect.isawaitable(returned):
        return await finished(await returned, inputs, context, folder)
    if _is_lent(returned):
        async with returned as made:
            return await finished(made, inputs, context, folder)
    if is_runnable(returned):
        return await ainvoke(returned, copy.deepcopy(dict(inputs)), context, folder)
    return returned


def outputs_of(result: Any) -> Any:
    """What an object returned, for `outputs`. A message becomes its text.

    The tool calls of a message, and the questions of a graph that waits for a person, become
    metadata.
    """
    if _is_message(result):
        text = _text_of(result.content)
        calls = [dict(call) for call in getattr(result, "tool_calls", None) or ()]
        return {"output": text, "metadata": {"tool_calls": calls}} if calls else text
    if isinstance(result, dict) and INTERRUPTS in result:
        state = {key: value for key, value in result.items() if key != INTERRUPTS}
        asked = [
            {"id": getattr(question, "id", None), "value": getattr(question, "value", question)}
            for question in result[INTERRUPTS]
        ]
        return {"output": state, "metadata": {"interrupts": asked}}
    return result


def _is_message(value: Any) -> bool:
    # Whoever has a message of LangChain has imported its module.
    messages = sys.modules.get("langchain_core.messages")
    return messages is not None and isinstance(value, messages.BaseMessage)


def _text_of(content: Any) -> str:
    """The text of a message's content, which is text or a list of parts of different types."""
    if isinstance(content, str):
        return content
    parts = [part if isinstance(part, str) else _text_of_part(part) for part in content]
    return "".join(parts)


def _text_of_part(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    return text if isinstance(text, str) else ""


def _with_config(method: Callable[..., Any], context: Context) -> Callable[[Any], Any]:
    """The method with LangChain's config, if it takes one."""
    with contextlib.suppress(ValueError, TypeError):  # functions written in C have no signature
        if "config" in inspect.signature(method).parameters:
            return lambda inputs: method(inputs, config=config_for(context))
    return method


@contextlib.contextmanager
def _nodes(runnable: Any, context: Context) -> Iterator[None]:
    """Reports the nodes of a graph as steps while it runs."""
    run, nodes = langchain.current(), getattr(runnable, "nodes", None)
    if run is None or not isinstance(nodes, Mapping):
        yield
        return
    count = sum(langchain.is_node_name(name) for name in nodes)
    run.nodes = langchain.NodeProgress(context, count)
    yield
    run.nodes.finish()


def _is_lent(returned: Any) -> bool:
    # What `@asynccontextmanager` makes.
    return isinstance(returned, contextlib.AsyncContextDecorator)
