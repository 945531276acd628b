"""What stands in the fields of a log line: plain JSON, without secrets, in one line's length, whatever was handed in.

Flows log what they like: texts of many megabytes, lists that hold themselves, objects whose `repr` raises. None
of that may cost more than a line, fail a run, or make a line that nobody can read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from app.masking import MASK, READ_FACTOR, Mask, is_secret_name

CUT = "… [cut]"
"""Stands where something was left out."""

OWN = ("event", "level", "logger", "timestamp", "execution_id", "attempt", "tenant", "request_id", "trace_id", "queue")
"""The fields that tell what a line is about. They are never left out."""

MAX_OWN = 128
MAX_NAME = 64
MAX_DEPTH = 8

_NOT_A_FLOWS = frozenset(
    (
        *(*OWN, "message", "exc_info", "stack_info", "stack", "exception", "errors", "said"),
        *("self", "method_name", "positional_args"),  # structlog's own
    )
)


def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A flow's fields, with `field_` in front of those that have the name of one of the line's own."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        while name in _NOT_A_FLOWS or name.startswith("_") or name in found:
            name = f"field_{name}"
        found[name] = value
    return found


def cleaned(event: Mapping[str, Any], hide: Mask, room: int) -> dict[str, Any]:
    """The fields of a line, with at most `room` characters in those that are not its own."""
    own = {name: _Cleaner(hide, MAX_OWN).value(event[name]) for name in OWN if name in event}
    others = {name: value for name, value in event.items() if name not in own}
    return _Cleaner(hide, room).mapping(others, 0) | own


class _Cleaner:
    """Makes values plain as long as there is room; each takes its own from it."""

    def __init__(self, hide: Mask, room: int):
        self._hide, self._room = hide, room

    def value(self, value: Any, depth: int = 0) -> Any:
        self._room -= 4
        if value is None or type(value) is bool:
            return value
        if self._room <= 0 or depth > MAX_DEPTH:
            return CUT
        try:
            return self._plain(value, depth)
        except BaseException:  # whatever a class of the flow's does when it is looked at
            return f"[{_class_name(value)} that can not be shown]"

    def mapping(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, content in dict.items(value):  # a derived class may have another `items`
            if self._room <= 0:
                return found | {"…": CUT}
            shown = self._text(name if isinstance(name, str) else repr(name), MAX_NAME)
            secret = is_secret_name(shown) and content is not None
            found[shown] = MASK if secret else self.value(content, depth + 1)
        return found

    def _plain(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value, self._room * 3 // 4)  # the rest is for the other fields
        if type(value) is int and abs(value) < 2**63:
            return value
        if type(value) is float and math.isfinite(value):
            return value
        if isinstance(value, dict):
            return self.mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = bytes(value[: self._room])
        return self._text(hex(value) if type(value) is int else repr(value), self._room)

    def _items(self, values: Iterable[Any], depth: int) -> list[Any]:
        found = []
        for item in itertools.islice(values, 1 + self._room // 4):
            found.append(self.value(item, depth + 1))
            if self._room <= 0:
                break
        return found

    def _text(self, text: str, limit: int) -> str:
        """The beginning, as exactly a `str`: the methods of a derived class may be anything."""
        limit = max(0, min(limit, self._room))
        beginning = str.__getitem__(text, slice(limit * READ_FACTOR + 1))
        shown = self._hide(beginning, limit)
        self._room -= len(shown)
        return shown + CUT if len(beginning) > limit else shown


def _class_name(value: Any) -> str:
    return str(type.__dict__["__name__"].__get__(type(value)))[:MAX_NAME]
