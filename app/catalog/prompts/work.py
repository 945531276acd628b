"""How much one rendering may compute, and how values become text.

A rendering runs in a process of many threads, where nothing can stop a single long call. So each
operation says what it costs before it begins, in characters read or written, and the sum is bounded:
that bounds time and memory alike, the same way on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import Undefined

MAX_WORK = 32 * 1024 * 1024
MAX_RENDERED_CHARACTERS = 4 * 1024 * 1024
ITEM = 16
"""What an item of a list costs, in characters: a reference and its share of a Python object."""

NODE = 64
"""What it costs to look at a value within another one: Python does that one by one."""

STEP = 32
"""What a step of a loop costs."""

_left: ContextVar[list[int]] = ContextVar("work left in this rendering")


class RenderError(Exception):
    """A prompt cannot be rendered with the values it was given."""


class Uncalled(Undefined):
    """A method that was named and not called. It is no data, so it counts as not there."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RenderError(f"{self._undefined_name} is a function here, and not data.")


@contextmanager
def bounded() -> Iterator[None]:
    """One rendering, which may spend `MAX_WORK`."""
    token = _left.set([MAX_WORK])
    try:
        yield
    finally:
        _left.reset(token)


def spend(cost: int) -> None:
    """Takes the cost of what is about to be done. Raises `RenderError` if too little is left."""
    left = _left.get()
    left[0] -= cost + 1
    if left[0] < 0:
        raise RenderError("It computes more than a prompt may: a value or a loop is too large.")


def weigh(value: Any) -> int:
    """Spends what it costs to read the whole of a value, and returns it.

    Raises `RenderError` for what is no data. A list may hold another one many times, so that its
    size is bounded while it is counted.
    """
    total, waiting = 0, [value]
    while waiting:
        found = waiting.pop()
        cost = NODE
        if isinstance(found, str):
            cost += len(found)
        elif isinstance(found, dict):
            waiting.extend(found)
            waiting.extend(found.values())
        elif isinstance(found, (list, tuple)):
            waiting.extend(found)
        elif not _is_plain(found):
            raise RenderError(f"{_kind(found)} is not data.")
        spend(cost)
        total += cost
    return total


def _is_plain(value: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        raise RenderError(f"The number {value} cannot be written.")
    return value is None or isinstance(value, (bool, int, float))


def _kind(value: Any) -> str:
    if isinstance(value, Uncalled):
        return f"{value._undefined_name}, a function,"
    if isinstance(value, Undefined):
        return "A value that nobody gave, inside of another one,"
    return f"A value of the type {type(value).__name__}"


def text(value: Any) -> str:
    """How a value stands in a prompt: text as it is, nothing for None, anything structured as JSON."""
    if isinstance(value, str):
        spend(len(value))
        return str(value)
    if isinstance(value, Uncalled):
        raise RenderError(
            f"{value._undefined_name} is a function here, and is written {value._undefined_name}()."
        )
    if value is None or isinstance(value, Undefined):
        return ""
    weigh(value)
    if isinstance(value, (dict, list, tuple, bool)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def items(value: Any) -> list[Any]:
    """The items of a list, the keys of a dictionary, the characters of a text; none of what nobody gave."""
    if isinstance(value, Undefined):
        return []
    if not isinstance(value, (list, tuple, dict, str)):
        raise RenderError(f"{_kind(value)} has no items.")
    spend(ITEM * len(value))
    return list(value)
