"""Runs a Python flow: loads its entry point, calls it, and waits for the result if it is awaitable.

`flows.py` calls `run_python` in the thread of the run; `run.py` calls `run_python_as_task` in the
event loop, for entry points that only wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from inspect import Parameter
from pathlib import Path
from typing import Any

from app.catalog.model import PythonFlow
from app.providers.base import Stopped
from app.runtime import flow_files
from app.runtime.context import Context, FlowContext
from app.runtime.errors import FlowError, reason_and_others
from app.runtime.loop import awaited, the_loop
from app.runtime.usage import BudgetExceeded


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """The loaded function or object of a flow. `call` takes the inputs and the context.

    `only_waits`: the call does nothing but make a coroutine, so it needs no thread of its own.
    """

    call: Callable[[dict[str, Any], FlowContext], Any]
    only_waits: bool


def run_python(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """What the flow returns. Raises whatever it raises, and `FlowError` if it cannot be loaded.

    The flow gets a copy of its inputs: other steps, and its next try, see no change of them.
    """
    with _unwrapped_end():
        returned = entry_point(flow).call(copy.deepcopy(dict(inputs)), context.for_flow())
        return the_loop.run(returned, context.stop) if inspect.isawaitable(returned) else returned


async def run_python_as_task(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """The same in the event loop, for an entry point that `only_waits`."""
    with _unwrapped_end():
        returned = entry_point(flow).call(copy.deepcopy(dict(inputs)), context.for_flow())
        return await awaited(returned, context.stop)


@contextlib.contextmanager
def _unwrapped_end() -> Iterator[None]:
    """Raises a spent budget or a stop itself in place of the group of errors that has it."""
    try:
        yield
    except BaseExceptionGroup as group:
        reason, _ = reason_and_others(group)
        if isinstance(reason, (BudgetExceeded, Stopped)):
            raise reason from group
        raise


def entry_point(flow: PythonFlow) -> EntryPoint:
    """The entry point, loaded once in a process. Raises `FlowError`, or as its module does."""
    return _entry_point(flow.entrypoint, flow.folder)


def is_loaded(flow: PythonFlow) -> bool:
    """Whether the flow's code is loaded, so that `entry_point` takes no time."""
    return (flow.entrypoint, flow.folder) in _loaded


_loaded: set[tuple[str, Path]] = set()


@cache
def _entry_point(entrypoint: str, folder: Path) -> EntryPoint:
    # No lock: Python locks each module while it is imported, so slow imports do not wait for
    # others.
    target = _attribute(entrypoint, folder)
    found = _of_object(target, folder) or _of_function(target)
    if found is None:
        raise FlowError(f"{entrypoint} is not a function and has no .invoke() method.")
    _loaded.add((entrypoint, folder))
    return found


def _attribute(entrypoint: str, folder: Path) -> Any:
    source, _, attribute = entrypoint.rpartition(":")
    # `flow.py:run` is a file of the agent's folder, `package.module:run` an installed module.
    is_file = source.endswith(".py")
    module = flow_files.load(folder / source) if is_file else importlib.import_module(source)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise FlowError(f"{source} has no {attribute!r}.") from None


def _of_function(target: Any) -> EntryPoint | None:
    if not callable(target):
        return None
    call = target if _takes_context(target) else lambda inputs, _: target(inputs)
    return EntryPoint(call, only_waits=_is_coroutine_function(target))


def _of_object(target: Any, folder: Path) -> EntryPoint | None:
    # First `.ainvoke`: the asynchronous nodes of a LangGraph graph work with nothing else.
    invoke = getattr(target, "invoke", None)
    ainvoke = getattr(target, "ainvoke", None)
    if callable(ainvoke):
        if callable(invoke):
            ainvoke = partial(_invoked, ainvoke, invoke, folder)
        only_waits = _is_coroutine_function(ainvoke)
        return EntryPoint(lambda inputs, _: ainvoke(inputs), only_waits)
    if callable(invoke):
        return EntryPoint(lambda inputs, _: invoke(inputs), only_waits=False)
    return None


async def _invoked(
    ainvoke: Callable[..., Any], invoke: Callable[..., Any], folder: Path, inputs: dict[str, Any]
) -> Any:
    """Calls `.ainvoke`, and `.invoke` if a part of the object has no asynchronous form.

    Such a part raises `NotImplementedError`. If the flow's own code raises it, that is the flow's
    failure: a part of its work may be done already, and must not be done twice.
    """
    given = copy.deepcopy(inputs)
    try:
        return await ainvoke(inputs)
    except NotImplementedError as error:
        frames = traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename).is_relative_to(folder) for frame in frames):
            raise
    return await asyncio.to_thread(invoke, given)


def _is_coroutine_function(target: Any) -> bool:
    # B004 wants `callable()`, but the question is whether the object's `__call__` is asynchronous.
    call = getattr(type(target), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call)


def _takes_context(function: Callable[..., Any]) -> bool:
    """Whether it can be called with the context as its second argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # functions written in C may have no signature
        return False
    kinds = [parameter.kind for parameter in parameters]
    positional = kinds.count(Parameter.POSITIONAL_ONLY) + kinds.count(
        Parameter.POSITIONAL_OR_KEYWORD
    )
    return positional >= 2 or Parameter.VAR_POSITIONAL in kinds
