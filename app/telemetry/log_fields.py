"""Makes the fields of a log line safe to write: plain JSON, without secrets, of bounded length.

`app.telemetry.logs` calls it for every line, and `context.log` of a flow to rename fields. Flows
log whatever they like: texts of many megabytes, lists that contain themselves, objects whose `repr`
raises. None of this may take longer than a line does, fail a run, or produce a line that nobody can
read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from app.telemetry.masking import MASK, READ_FACTOR, Mask, is_secret_name

CUT = "… [cut]"
"""The mark in place of what was left out."""

OWN = (
    "event",
    "level",
    "logger",
    "timestamp",
    "execution_id",
    "attempt",
    "tenant",
    "request_id",
    "trace_id",
    "queue",
)
"""Fields that identify what a line is about. They are never left out."""

MAX_OWN = 128
"""The most characters in a field of `OWN`, which is an id or a name and never a text."""

MAX_NAME = 64
"""The most characters in the name of a field."""

MAX_DEPTH = 8
"""The most levels of lists and objects. Deeper ones are cut: a list may contain itself."""

_RESERVED = frozenset(
    (
        *(
            *OWN,
            "message",
            "exc_info",
            "stack_info",
            "stack",
            "exception",
            "errors",
            "store_message",
        ),
        *("self", "method_name", "positional_args"),  # parameters of structlog's own methods
    )
)


def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a flow's fields; a name that a log line uses itself gets `field_` in front of it."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        # Repeated, since `field_event` may be the name of another field of this line.
        while name in _RESERVED or name.startswith("_") or name in found:
            name = f"field_{name}"
        found[name] = value
    return found


def cleaned(event: Mapping[str, Any], hide: Mask, room: int) -> dict[str, Any]:
    """Returns a line's fields, with at most `room` characters in those that are not in `OWN`."""
    own = {name: _Cleaner(hide, MAX_OWN).value(event[name]) for name in OWN if name in event}
    others = {name: value for name, value in event.items() if name not in own}
    return _Cleaner(hide, room).mapping(others, 0) | own


class _Cleaner:
    """Makes values plain until `room` characters are used up; all values share this room."""

    def __init__(self, hide: Mask, room: int):
        self._hide = hide
        self._room = room

    def value(self, value: Any, depth: int = 0) -> Any:
        # Every value costs something, so that a million empty lists come to an end too.
        self._room -= 4
        if value is None or type(value) is bool:
            return value
        if self._room <= 0 or depth > MAX_DEPTH:
            return CUT
        try:
            return self._plain(value, depth)
        except BaseException:  # a flow's class may raise anything from its methods, SystemExit too
            return f"[{_class_name(value)} that cannot be shown]"

    def mapping(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, content in dict.items(value):  # a subclass may override `items`
            if self._room <= 0:
                return found | {"…": CUT}
            shown = self._text(name if isinstance(name, str) else repr(name), MAX_NAME)
            secret = is_secret_name(shown) and content is not None
            found[shown] = MASK if secret else self.value(content, depth + 1)
        return found

    def _plain(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value, self._room * 3 // 4)  # leaves a quarter for other fields
        # Exact types: a subclass of int or float may override the methods that JSON calls. Larger
        # integers are written as hex, since decimal digits take time that grows with their square.
        if type(value) is int and abs(value) < 2**63:
            return value
        if type(value) is float and math.isfinite(value):
            return value
        if isinstance(value, dict):
            return self.mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = bytes(value[: self._room])  # so that `repr` does not copy many megabytes
        return self._text(hex(value) if type(value) is int else repr(value), self._room)

    def _items(self, values: Iterable[Any], depth: int) -> list[Any]:
        found = []
        for item in itertools.islice(values, 1 + self._room // 4):
            found.append(self.value(item, depth + 1))
            if self._room <= 0:
                break
        return found

    def _text(self, text: str, limit: int) -> str:
        """Returns the beginning of a text, masked, as exactly a `str`."""
        limit = max(0, min(limit, self._room))
        # `str`'s own method, since a subclass may override it.
        beginning = str.__getitem__(text, slice(limit * READ_FACTOR + 1))
        shown = self._hide(beginning, limit)
        self._room -= len(shown)
        return shown + CUT if len(beginning) > limit else shown


def _class_name(value: Any) -> str:
    # Read from `type` itself: the value's metaclass may override `__name__`.
    return str(type.__dict__["__name__"].__get__(type(value)))[:MAX_NAME]
