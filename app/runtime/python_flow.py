"""Runs a Python flow: loads its entry point once in a process, calls it, and waits for what is asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from app.catalog.model import PythonFlow
from app.models.base import Stopped
from app.runtime import flow_files
from app.runtime.context import Context, FlowContext
from app.runtime.errors import FlowError, reasons
from app.runtime.usage import BudgetExceeded

_Entrypoint = Callable[[dict[str, Any], FlowContext], Any]


def run_python(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """What the flow does to its inputs is its own business: other steps, and its next try, are given the same ones."""
    try:
        returned = _entrypoint(flow.entrypoint, flow.folder)(copy.deepcopy(dict(inputs)), context.for_flow())
        return _wait_for(returned, context) if inspect.isawaitable(returned) else returned
    except BaseExceptionGroup as group:
        reason, _ = reasons(group)
        if isinstance(reason, (BudgetExceeded, Stopped)):
            raise reason from group  # what ends a run is never one error among others
        raise


def _takes_context(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return len(positional) >= 2 or any(each.kind is each.VAR_POSITIONAL for each in parameters)


def _wait_for(returned: Awaitable[Any], context: Context) -> Any:
    """Runs a coroutine in this thread; a stop cancels it."""

    async def wait() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(returned)

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                loop.call_soon_threadsafe(task.cancel)

        unsubscribe = context.stop.subscribe(cancel)
        try:
            return await task
        except asyncio.CancelledError:
            if context.cancelled:
                raise Stopped from None
            raise
        finally:
            unsubscribe()

    return asyncio.run(wait())


@cache
def _entrypoint(entrypoint: str, folder: Path) -> _Entrypoint:
    """What an entry point names, to be called with inputs and context. Raises `FlowError`.

    Nothing is locked here: Python locks each module while it is imported, and what is loaded is found at once.
    """
    target = _attribute(entrypoint, folder)
    if hasattr(target, "invoke"):
        return lambda inputs, _: target.invoke(inputs)
    if hasattr(target, "ainvoke"):
        return lambda inputs, _: target.ainvoke(inputs)
    if not callable(target):
        raise FlowError(f"{entrypoint} is neither a function nor has it .invoke().")
    return target if _takes_context(target) else lambda inputs, _: target(inputs)


def _attribute(entrypoint: str, folder: Path) -> Any:
    where, _, attribute = entrypoint.rpartition(":")
    module = flow_files.load(folder / where) if where.endswith(".py") else importlib.import_module(where)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise FlowError(f"{where} has no {attribute!r}.") from None
