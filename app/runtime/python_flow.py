"""Runs a Python flow: loads its entry point once in a process, calls it, and waits for what is asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from app.catalog.model import PythonFlow
from app.models.base import Stopped
from app.runtime.context import Context, FlowContext
from app.runtime.errors import FlowError

_loading = threading.RLock()

_Entrypoint = Callable[[dict[str, Any], FlowContext], Any]


def run_python(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """What the flow does to its inputs is its own business: other steps, and its next try, are given the same ones."""
    returned = _entrypoint(flow.entrypoint, flow.folder)(copy.deepcopy(dict(inputs)), context.for_flow())
    return _wait_for(returned, context) if inspect.isawaitable(returned) else returned


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


def _entrypoint(entrypoint: str, folder: Path) -> _Entrypoint:
    """What an entry point names, to be called with inputs and context; loaded once in a process. Raises `FlowError`."""
    with _loading:  # a second thread must not see a module that is half loaded
        return _load(entrypoint, folder)


@cache
def _load(entrypoint: str, folder: Path) -> _Entrypoint:
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
    module = _load_file(folder / where) if where.endswith(".py") else importlib.import_module(where)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise FlowError(f"{where} has no {attribute!r}.") from None


def _load_file(path: Path) -> Any:
    """A file as a package of its own: two agents' files never meet, and `from . import other` finds its folder."""
    name = f"flow_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
