"""Runs one flow of an agent: a prompt, or Python code."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from app.catalog.model import Agent, Flow, OutputParser, PromptFlow, PythonFlow
from app.executions.model import ModelUsage
from app.models.base import Stopped
from app.runtime.context import Context
from app.runtime.errors import FlowError, InvalidOutput
from app.runtime.templates import render
from app.runtime.usage import UNKNOWN_MODEL

_FENCE = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.DOTALL)
_loading = threading.RLock()

_Entrypoint = Callable[[dict[str, Any], Context], Any]

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)、])\s*")


def run_flow(agent: Agent, flow: Flow, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """The outputs: `output`, and `metadata` with at least `model_used` and `tokens_used`."""
    if isinstance(flow, PromptFlow):
        return _filled_in({"output": _run_prompt(flow, inputs, context)}, context)
    returned = _run_python(flow, inputs, context)
    context.hold_to_budget()
    if isinstance(returned, dict) and "output" in returned:
        return _filled_in(returned, context)
    return _filled_in({"output": returned}, context)


def _filled_in(outputs: dict[str, Any], context: Context) -> dict[str, Any]:
    """`metadata` completed with what the model calls reported; what the flow said itself stands.

    Where it made no calls through its context, what it said counts as its usage.
    """
    own = outputs.get("metadata")
    if own is not None and not isinstance(own, dict):
        raise InvalidOutput("outputs.metadata must be an object.")
    models, total = context.usage.models, context.usage.total
    metadata: dict[str, Any] = {
        "model_used": list(models)[-1] if models else None,
        "tokens_used": total.total_tokens or None,
    }
    if models:
        metadata |= {"input_tokens": total.input_tokens, "output_tokens": total.output_tokens}
    metadata |= own or {}
    model, tokens = metadata["model_used"], metadata["tokens_used"]
    if not (model is None or isinstance(model, str)):
        raise InvalidOutput("outputs.metadata.model_used must be text or null.")
    if not (tokens is None or (type(tokens) is int and tokens >= 0)):
        raise InvalidOutput("outputs.metadata.tokens_used must be a whole number of at least 0, or null.")
    if not models and (model or tokens):
        context.usage.add_usage(model or UNKNOWN_MODEL, ModelUsage(total_tokens=tokens or 0))
    return {**outputs, "metadata": metadata}


def _run_prompt(flow: PromptFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    values = {**flow.defaults, **{name: value for name, value in inputs.items() if value is not None}}
    messages = [{"role": "system", "content": render(flow.system_prompt, values)}] if flow.system_prompt else []
    messages.append({"role": "user", "content": render(flow.user_template, values)})
    options = {"temperature": flow.temperature, "max_tokens": flow.max_tokens}
    options = {name: value for name, value in options.items() if value is not None}
    parser = flow.output_parser
    tries = 1 + (parser.max_retries if parser.retry_on_error else 0)
    while True:
        text = context.complete(messages, model=flow.model, **options).text
        tries -= 1
        try:
            return parse(parser, text)
        except InvalidOutput as error:
            if not tries:
                raise
            complaint = f"Your answer could not be read: {error} Answer again, with nothing but the corrected answer."
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": complaint}]


def parse(parser: OutputParser, text: str) -> Any:
    """A model's answer as the flow wants it. Raises `InvalidOutput` with what is wrong with it."""
    if parser.type == "none":
        return text
    fenced = _FENCE.match(text)
    bare = fenced[1] if fenced else text
    try:
        value = json.loads(bare)
    except ValueError as error:
        if parser.type == "json":
            raise InvalidOutput(f"The answer is not JSON: {error}.") from None
        lines = [_BULLET.sub("", line).strip() for line in bare.splitlines()]
        value = [line for line in lines if line]
    if parser.type == "list" and not isinstance(value, list):
        raise InvalidOutput("The answer is not a list.")
    if parser.schema is not None:
        import jsonschema

        try:
            jsonschema.validate(value, dict(parser.schema))
        except jsonschema.ValidationError as error:
            raise InvalidOutput(f"The answer does not fit its schema: {error.message}") from None
    return value


def _run_python(flow: PythonFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """What the flow does to its inputs is its own business: other steps, and its next try, are given the same ones."""
    returned = _entrypoint(flow.entrypoint, flow.folder)(copy.deepcopy(dict(inputs)), context)
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
