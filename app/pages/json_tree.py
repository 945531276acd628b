"""Makes a tree of a JSON text, for people: bounded, with what is too much counted and left out.

Pure functions. The template `json.html` draws what comes out of here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

MAX_PARSED_BYTES = 512 * 1024
"""A larger text is shown as it is, since to parse it would hold up other requests."""

MAX_RAW_BYTES = 24 * 1024
"""How much of a text is shown that is not parsed."""

MAX_NODES = 600
MAX_CHARACTERS = 64 * 1024
LEAST_NODES, LEAST_BYTES = 10, 1000
MAX_STRING = 16 * 1024
MAX_DEPTH = 24
OPEN_DEPTH = 2
OPEN_CHILDREN = 40
SHORT_STRING = 90


class Large(Protocol):
    """A text that is not in memory."""

    size: int

    def pieces(self) -> Iterable[bytes]: ...


@dataclass(frozen=True, slots=True)
class Node:
    """A value. `name` is its key or number, None for the whole.

    `kind` is `object`, `array`, `text` (a string with lines of its own), `string`, `number` or
    `word` (true, false and null). `left_out` counts the children, or characters, that are not
    shown.
    """

    name: str | None
    kind: str
    text: str = ""
    count: int = 0
    children: tuple[Node, ...] = ()
    left_out: int = 0
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a text: a tree, or `raw`, its beginning. `size` is in bytes."""

    size: int
    is_cut: bool = False
    node: Node | None = None
    raw: str = ""


@dataclass(slots=True)
class _Budget:
    """What may still be shown."""

    nodes: int
    characters: int
    is_cut: bool = False

    @property
    def is_spent(self) -> bool:
        return self.nodes <= 0 or self.characters <= 0


def shown(text: bytes | Large, *, beside: int = 1) -> Shown:
    """What to show of a JSON text: less of it if it is one of many that are shown `beside` it."""
    room = max(MAX_RAW_BYTES // beside, LEAST_BYTES)
    if not isinstance(text, bytes):
        return _beginning(_first(text), text.size, room)
    if len(text) > MAX_PARSED_BYTES // beside:
        return _beginning(text, len(text), room)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _beginning(text, len(text), room)
    return shown_value(value, len(text), beside=beside)


def shown_value(value: Any, size: int = 0, *, beside: int = 1) -> Shown:
    """The same for a value that is parsed already."""
    characters = max(MAX_CHARACTERS // beside, LEAST_BYTES)
    budget = _Budget(max(MAX_NODES // beside, LEAST_NODES), characters)
    node = _node(None, value, 0, budget)
    return Shown(size, budget.is_cut, node)


def _first(text: Large) -> bytes:
    found = b""
    for piece in text.pieces():
        found += piece
        if len(found) >= MAX_RAW_BYTES:
            break
    return found


def _beginning(text: bytes, size: int, room: int) -> Shown:
    return Shown(size, size > room, raw=text[:room].decode(errors="ignore"))


def _node(name: str | None, value: Any, depth: int, budget: _Budget) -> Node:
    budget.nodes -= 1
    budget.characters -= len(name or "")
    if isinstance(value, dict):
        return _parent(name, "object", value.items(), len(value), depth, budget)
    if isinstance(value, list):
        pairs = ((str(number), item) for number, item in enumerate(value))
        return _parent(name, "array", pairs, len(value), depth, budget)
    if isinstance(value, str):
        return _string(name, value, budget)
    kind = "word" if value is None or isinstance(value, bool) else "number"
    text = json.dumps(value)
    budget.characters -= len(text)
    return Node(name, kind, text[:MAX_STRING])


def _parent(
    name: str | None,
    kind: str,
    pairs: Iterable[tuple[str, Any]],
    count: int,
    depth: int,
    budget: _Budget,
) -> Node:
    children: list[Node] = []
    if depth < MAX_DEPTH:
        for key, value in islice(pairs, MAX_NODES):
            if budget.is_spent:
                break
            children.append(_node(key, value, depth + 1, budget))
    left_out = count - len(children)
    budget.is_cut |= left_out > 0
    return Node(
        name,
        kind,
        count=count,
        children=tuple(children),
        left_out=left_out,
        is_open=depth < OPEN_DEPTH and count <= OPEN_CHILDREN,
    )


def _string(name: str | None, value: str, budget: _Budget) -> Node:
    room = max(min(MAX_STRING, budget.characters), 0)
    text, left_out = value[:room], max(len(value) - room, 0)
    budget.characters -= len(text)
    budget.is_cut |= left_out > 0
    if "\n" in text or len(text) > SHORT_STRING or left_out:
        return Node(name, "text", text, left_out=left_out)
    return Node(name, "string", json.dumps(text, ensure_ascii=False))
