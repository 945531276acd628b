"""Runs a Python flow: loads its entry point, calls it, and waits for the result if it is awaitable.

`flows.py` calls `run_python` in the thread of the run; `run.py` calls `run_python_as_task` in the
event loop, for entry points that only wait.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from inspect import Parameter
from pathlib import Path
from typing import Any

from app.catalog.model import PythonFlow
from app.providers.base import Stopped
from app.runtime import flow_files, runnables
from app.runtime.context import Context
from app.runtime.errors import FlowError, is_a, reason_and_others
from app.runtime.langchain import followed
from app.runtime.loop import awaited, the_loop
from app.runtime.usage import BudgetExceeded


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """The loaded function or object of a flow. `call` takes the inputs and the context.

    `only_waits`: the call does nothing but make a coroutine, so it needs no thread of its own.
    """

    call: Callable[[dict[str, Any], Context], Any]
    only_waits: bool


def run_python(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """What the flow returns. Raises whatever it raises, and `FlowError` if it cannot be loaded.

    The flow gets a copy of its inputs: other steps, and its next try, see no change of them.
    """
    with _unwrapped_end(), followed(context):
        returned = entry_point(flow).call(copy.deepcopy(dict(inputs)), context)
        if runnables.is_unfinished(returned):
            rest = runnables.finished(returned, inputs, context, flow.folder)
            return the_loop.run(rest, context.stop)
        return returned


async def run_python_as_task(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """The same in the event loop, for an entry point that `only_waits`."""
    with _unwrapped_end(), followed(context):
        returned = entry_point(flow).call(copy.deepcopy(dict(inputs)), context)
        rest = runnables.finished(returned, inputs, context, flow.folder)
        return await awaited(rest, context.stop)


@contextlib.contextmanager
def _unwrapped_end() -> Iterator[None]:
    """Raises a spent budget or a stop itself in place of the group of errors that has it."""
    try:
        yield
    except BaseExceptionGroup as group:
        reason, _ = reason_and_others(group)
        if is_a(reason, (BudgetExceeded, Stopped)):
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
    found = _of_object(target, folder) or _of_function(target, entrypoint)
    if found is None:
        # A graph of LangGraph that its author forgot to compile.
        hint = " Use its .compile()." if hasattr(target, "compile") else ""
        raise FlowError(f"{entrypoint} is not a function and has no .invoke() method.{hint}")
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


def _of_function(target: Any, entrypoint: str) -> EntryPoint | None:
    if not callable(target):
        return None
    gets = _arguments(target)
    _refuse_others(target, gets, entrypoint)

    def call(inputs: dict[str, Any], context: Context) -> Any:
        return target(*(_GIVEN[name](inputs, context) for name in gets))

    return EntryPoint(call, only_waits=_is_coroutine_function(target))


_GIVEN: dict[str, Callable[[dict[str, Any], Context], Any]] = {
    "inputs": lambda inputs, _: inputs,
    "context": lambda _, context: context.for_flow(),
    "config": lambda _, context: runnables.config_for(context),
}
"""What functions get, by name."""


def _arguments(function: Callable[..., Any]) -> list[str]:
    """What a function gets: `inputs`, then `context` or LangChain's `config`; or less.

    A function that takes nothing, or only a config, makes an object with `.invoke`.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # functions written in C may have no signature
        return ["inputs"]
    by_position = [parameter for parameter in parameters if parameter.kind in _BY_POSITION]
    if any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters):
        return ["inputs", "context"]
    if len(by_position) > 1:
        return ["inputs", "config" if _is_typed_config(by_position[1]) else "context"]
    if not by_position:
        return []
    [only] = by_position
    named = only.name == "config" and only.annotation is Parameter.empty
    return ["config" if named or _is_typed_config(only) else "inputs"]


def _refuse_others(function: Callable[..., Any], gets: list[str], entrypoint: str) -> None:
    """Raises `FlowError` if the function requires more than it gets: every call would fail."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return
    try:
        signature.bind(*gets)
    except TypeError as error:
        raise FlowError(
            f"{entrypoint} cannot be called: {error}. A flow is a function of (inputs) or "
            "(inputs, context)."
        ) from None


_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _is_typed_config(parameter: Parameter) -> bool:
    # By name: the annotation may be a text, and the service does not need LangChain.
    return "RunnableConfig" in str(parameter.annotation)


def _of_object(target: Any, folder: Path) -> EntryPoint | None:
    if not runnables.is_runnable(target):
        return None
    if runnables.has_async_form(target):
        only_waits = _is_coroutine_function(target.ainvoke)
        return EntryPoint(partial(_ainvoked, target, folder), only_waits)
    return EntryPoint(partial(runnables.invoke, target), only_waits=False)


def _ainvoked(target: Any, folder: Path, inputs: dict[str, Any], context: Context) -> Any:
    return runnables.ainvoke(target, inputs, context, folder)


def _is_coroutine_function(target: Any) -> bool:
    # B004 wants `callable()`, but the question is whether the object's `__call__` is asynchronous.
    call = getattr(type(target), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call)
