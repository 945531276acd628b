"""Runs a Python flow: loads its entry point, calls it, and waits for what is asynchronous."""

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
from pathlib import Path
from typing import Any

from app.catalog.model import PythonFlow
from app.models.base import Stopped
from app.runtime import flow_files
from app.runtime.context import Context, FlowContext
from app.runtime.errors import FlowError, reasons
from app.runtime.loop import awaited, the_loop
from app.runtime.usage import BudgetExceeded


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """What a flow names, loaded. `call` takes inputs and context.

    `only_waits`: calling it does nothing but make a coroutine, so it needs no thread of its own.
    """

    call: Callable[[dict[str, Any], FlowContext], Any]
    only_waits: bool


def run_python(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """What the flow returns. It works on a copy of its inputs: other steps, and its next try, see no change."""
    with _most_important():
        returned = entry_point(flow).call(copy.deepcopy(dict(inputs)), context.for_flow())
        return the_loop.run(returned, context.stop) if inspect.isawaitable(returned) else returned


async def run_python_as_task(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """The same in the event loop, for an entry point that `only_waits`."""
    with _most_important():
        returned = entry_point(flow).call(copy.deepcopy(dict(inputs)), context.for_flow())
        return await awaited(returned, context.stop)


@contextlib.contextmanager
def _most_important() -> Iterator[None]:
    """What ends a run is never one error among others of a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        reason, _ = reasons(group)
        if isinstance(reason, (BudgetExceeded, Stopped)):
            raise reason from group
        raise


def entry_point(flow: PythonFlow) -> EntryPoint:
    """Loads it, once in a process. Raises `FlowError`, or whatever its module raises while it is imported."""
    return _entry_point(flow.entrypoint, flow.folder)


def is_loaded(flow: PythonFlow) -> bool:
    """Whether `entry_point` returns at once."""
    return (flow.entrypoint, flow.folder) in _loaded


_loaded: set[tuple[str, Path]] = set()


@cache
def _entry_point(entrypoint: str, folder: Path) -> EntryPoint:
    """Nothing is locked here: Python locks each module while it is imported."""
    target = _attribute(entrypoint, folder)
    found = _of_object(target, folder) or _of_function(target)
    if found is None:
        raise FlowError(f"{entrypoint} is neither a function nor has it .invoke().")
    _loaded.add((entrypoint, folder))
    return found


def _attribute(entrypoint: str, folder: Path) -> Any:
    where, _, attribute = entrypoint.rpartition(":")
    module = (
        flow_files.load(folder / where) if where.endswith(".py") else importlib.import_module(where)
    )
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise FlowError(f"{where} has no {attribute!r}.") from None


def _of_function(target: Any) -> EntryPoint | None:
    if not callable(target):
        return None
    call = target if _takes_context(target) else lambda inputs, _: target(inputs)
    return EntryPoint(call, only_waits=_is_coroutine_function(target))


def _of_object(target: Any, folder: Path) -> EntryPoint | None:
    """`.ainvoke` goes before `.invoke`: asynchronous nodes of a graph work with nothing else."""
    invoke, ainvoke = getattr(target, "invoke", None), getattr(target, "ainvoke", None)
    if callable(ainvoke):
        if callable(invoke):
            ainvoke = partial(_invoked, ainvoke, invoke, folder)
        return EntryPoint(
            lambda inputs, _: ainvoke(inputs), only_waits=_is_coroutine_function(ainvoke)
        )
    if callable(invoke):
        return EntryPoint(lambda inputs, _: invoke(inputs), only_waits=False)
    return None


async def _invoked(
    ainvoke: Callable[..., Any], invoke: Callable[..., Any], folder: Path, inputs: dict[str, Any]
) -> Any:
    """`.ainvoke`, or `.invoke` where a part of the object has no asynchronous form and says so.

    A `NotImplementedError` of the flow's own code is its failure: then part of its work is done already.
    """
    given = copy.deepcopy(inputs)
    try:
        return await ainvoke(inputs)
    except NotImplementedError as error:
        if any(
            Path(frame.filename).is_relative_to(folder)
            for frame in traceback.extract_tb(error.__traceback__)
        ):
            raise
    return await asyncio.to_thread(invoke, given)


def _is_coroutine_function(target: Any) -> bool:
    call = getattr(type(target), "__call__", None)  # noqa: B004  an object may be called like a function
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call)


def _takes_context(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    positional = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return len(positional) >= 2 or any(each.kind is each.VAR_POSITIONAL for each in parameters)
