"""Counts the work of rendering a prompt and stops it beyond a limit; turns values into text.

A prompt is rendered in a process of many threads, where nothing can interrupt a single long call.
So each operation of the sandbox (filters, methods, operators, loops) states its cost before it
begins, in characters read or written. A limit on the sum bounds time and memory, and is reached at
the same point on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import Undefined

# At this limit a processor has worked for some tenths of a second, whatever the operations were.
MAX_WORK = 32 * 1024 * 1024
MAX_RENDERED_CHARACTERS = 4 * 1024 * 1024

# The costs, in characters, of an item of a list (a reference and its share of a Python object), of
# a visit to a value within another one (more, because Python code visits them one by one), and of
# a step of a loop.
ITEM_COST = 16
NODE_COST = 64
STEP_COST = 32

# The number is in a list, which `spend` changes in place: that is faster than setting the variable.
_work_left: ContextVar[list[int]] = ContextVar("work left in this rendering")


class RenderError(Exception):
    """A prompt cannot be rendered with the values it was given."""


class Uncalled(Undefined):
    """A method that a prompt names without calling it: `{{ name.upper }}`.

    It counts as undefined, so it can be tested and never leaks a Python object, but it cannot be
    printed without notice.
    """

    __slots__ = ()

    def __str__(self) -> str:
        raise RenderError(f"{self._undefined_name} is a function, not data.")


@contextmanager
def bounded() -> Iterator[None]:
    """Allows what is rendered inside to spend `MAX_WORK`."""
    token = _work_left.set([MAX_WORK])
    try:
        yield
    finally:
        _work_left.reset(token)


def spend(cost: int) -> None:
    """Takes the cost of the next operation. Raises `RenderError` if too little work is left."""
    left = _work_left.get()
    left[0] -= cost + 1  # a free operation, repeated, must come to an end too
    if left[0] < 0:
        raise RenderError("The prompt needs too much work: a value or a loop in it is too large.")


def weigh(value: Any) -> int:
    """Spends the cost of reading a value with all that is in it, and returns that cost.

    Raises `RenderError` for anything that is not data.
    """
    # Spent while it is counted: a list may contain another one many times, so its full size can
    # be far too large to walk through.
    total = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        cost = NODE_COST
        if isinstance(item, str):
            cost += len(item)
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif not _is_scalar(item):
            raise RenderError(f"{_kind(item)} is not data.")
        spend(cost)
        total += cost
    return total


def _is_scalar(value: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        raise RenderError(f"The number {value} cannot be written.")
    return value is None or isinstance(value, (bool, int, float))


def _kind(value: Any) -> str:
    if isinstance(value, Uncalled):
        return f"The function {value._undefined_name}"
    if isinstance(value, Undefined):
        return "An undefined value inside another one"
    return f"A value of the type {type(value).__name__}"


def text(value: Any) -> str:
    """A value as a prompt shows it: text as it is, nothing for None, lists and objects as JSON."""
    if isinstance(value, str):
        spend(len(value))
        return str(value)
    if isinstance(value, Uncalled):
        name = value._undefined_name
        raise RenderError(f"{name} is a function. Call it: {name}().")
    if value is None or isinstance(value, Undefined):
        return ""
    weigh(value)
    if isinstance(value, (dict, list, tuple, bool)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def items(value: Any) -> list[Any]:
    """The items of a list, keys of an object or characters of a text; none if it is undefined."""
    if isinstance(value, Undefined):
        return []
    if not isinstance(value, (list, tuple, dict, str)):
        raise RenderError(f"{_kind(value)} has no items.")
    spend(ITEM_COST * len(value))
    return list(value)
