"""YAML's nodes: bounded before they are built, and noted with their lines and spellings.

Depth and number are counted on the events, before anything is kept; aliases are counted as often as
they are used, so that a small file never becomes a large value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 64
MAX_NODES = 100_000

Place = tuple[str | int, ...]
"""Where in a document: the keys and positions on the way there."""

Problem = tuple[Place, str]
"""What is wrong, and where."""

_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, eight times as fast

_PREFIX = "tag:yaml.org,2002:"


class _Loader(_Safe):  # type: ignore[misc]
    """YAML as PyYAML reads it, but that dates, `=` and a `<<` that is no key are texts, as in JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [found for found in resolvers if found[0] != f"{_PREFIX}timestamp"]
    for first, resolvers in _Safe.yaml_implicit_resolvers.items()
}
for _tag in ("merge", "value"):
    _Loader.add_constructor(f"{_PREFIX}{_tag}", _Safe.construct_yaml_str)


class TooMuch(Exception):
    """A file has more in it than a file of this kind may have."""

    def __init__(self, line: int, reason: str):
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the parts of a document stand.

    `lines` has the line, from 1, of every key and list item; `sources` the spelling of every scalar
    that stands there without quotes and is not read as text; `blocks` the first line of every text
    that is written as a block (`|`).
    """

    lines: dict[Place, int] = field(default_factory=lambda: {(): 1})
    sources: dict[Place, str] = field(default_factory=dict)
    blocks: dict[Place, int] = field(default_factory=dict)


def load(text: str, marks: Marks) -> tuple[Any, list[Problem]]:
    """The one document in the text, and the keys in it that stand twice. Fills in `marks`."""
    _bound(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        problems = [*_loops(node)] or [*_note(loader, node, (), marks)]
        return (None if problems else loader.construct_document(node)), problems
    finally:
        loader.dispose()


def _bound(text: str) -> None:
    """Raises `TooMuch` where the file is nested too deeply or has too much in it."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise TooMuch(
                _line(event), f"The file is nested too deeply: more than {MAX_DEPTH} levels."
            )
        if number > 2 * MAX_NODES:
            raise TooMuch(_line(event), f"The file has more than {MAX_NODES} values.")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _loops(node: yaml.Node) -> Iterator[Problem]:
    """The alias that stands inside of what it stands for. Raises `TooMuch` where aliases add up to much."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node, place: Place) -> int:
        if id(node) in above:
            raise _Loop(place)
        if id(node) not in sizes:
            above.add(id(node))
            sizes[id(node)] = 1 + sum(
                size(child, (*place, name)) for name, child in _children(node)
            )
            above.remove(id(node))
        if sizes[id(node)] > MAX_NODES:
            line = node.start_mark.line + 1
            raise TooMuch(line, f"Its aliases, written out, are more than {MAX_NODES} values.")
        return sizes[id(node)]

    try:
        size(node, ())
    except _Loop as loop:
        yield loop.place, "This alias stands inside of what it stands for."


class _Loop(Exception):
    def __init__(self, place: Place):
        super().__init__()
        self.place = place


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            yield name, key
            yield name, value
    elif isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)


def _note(loader: Any, node: yaml.Node, place: Place, marks: Marks) -> Iterator[Problem]:
    """Notes where everything stands. Keys become texts: `no: 1` has the key `no`."""
    if isinstance(node, yaml.MappingNode):
        yield from _note_keys(loader, node, place, marks)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            marks.lines[(*place, position)] = value.start_mark.line + 1
            yield from _note(loader, value, (*place, position), marks)
    elif isinstance(node, yaml.ScalarNode):
        yield from _note_scalar(node, place, marks)


def _note_keys(
    loader: Any, node: yaml.MappingNode, place: Place, marks: Marks
) -> Iterator[Problem]:
    own: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_PREFIX}merge":
            continue
        key.tag = f"{_PREFIX}str"
        if key.value in own:
            marks.lines.setdefault((*place, key.value), own[key.value])
            yield (
                (*place, key.value),
                f"This key stands here again, on line {key.start_mark.line + 1}.",
            )
        own.setdefault(key.value, key.start_mark.line + 1)
    if any(key.tag == f"{_PREFIX}merge" for key, _ in node.value):
        loader.flatten_mapping(
            node
        )  # what is merged stands first, so that the mapping's own keys win
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            key.tag = f"{_PREFIX}str"
            marks.lines[(*place, key.value)] = own.get(key.value, key.start_mark.line + 1)
            marks.sources.pop((*place, key.value), None)
            yield from _note(loader, value, (*place, key.value), marks)


def _note_scalar(node: yaml.ScalarNode, place: Place, marks: Marks) -> Iterator[Problem]:
    if not node.style and node.tag.startswith(_PREFIX) and node.tag != f"{_PREFIX}str":
        marks.sources[place] = node.value
    if node.style == "|":
        marks.blocks[place] = node.start_mark.line + 2
    try:
        node.value.encode()
    except UnicodeEncodeError:
        yield place, "This text is not valid Unicode: there is a lone surrogate in it."
