"""Parses YAML within limits, and records the line and the spelling of every value.

`documents` calls `load`. The file's depth and number of values are counted on YAML's events, before
anything is built. Aliases count as often as they are used, so a small file cannot become a large
value ("billion laughs").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 64  # far below Python's recursion limit, which building nested values could reach
MAX_NODES = 100_000

Place = tuple[str | int, ...]
"""Where in a document a value is: the keys and positions that lead to it."""

Problem = tuple[Place, str]
"""Where something is wrong, and what, in one sentence."""

_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is eight times as fast

_TAG_PREFIX = "tag:yaml.org,2002:"


class _Loader(_Safe):  # type: ignore[misc]
    """PyYAML's safe loader, but dates, `=` and a `<<` that is a value are texts, as in JSON."""


# Without its resolver, a date is not recognized, and so is a text.
_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] != f"{_TAG_PREFIX}timestamp"]
    for first, resolvers in _Safe.yaml_implicit_resolvers.items()
}
# `<<` must stay recognized, since it merges where it is a key. As a value it is built as a text.
for _tag in ("merge", "value"):
    _Loader.add_constructor(f"{_TAG_PREFIX}{_tag}", _Safe.construct_yaml_str)


class LimitExceeded(Exception):
    """A file is nested too deeply or has too many values; `line` is where, from 1."""

    def __init__(self, line: int, reason: str):
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the parts of a document are in its file. `load` fills it in.

    `lines` has the line, from 1, of every key and list item. `sources` has the spelling of every
    value that is written without quotes and that YAML does not read as text (`no`, `1.10`).
    `blocks` has the first line of every text that is written as a block (`|`).
    """

    lines: dict[Place, int] = field(default_factory=lambda: {(): 1})
    sources: dict[Place, str] = field(default_factory=dict)
    blocks: dict[Place, int] = field(default_factory=dict)


def load(text: str, marks: Marks) -> tuple[Any, list[Problem]]:
    """The one document in the text, or None with the problems that keep it from being built.

    Raises `LimitExceeded`, or PyYAML's own errors for text that is not YAML.
    """
    _check_limits(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        # Recording walks down the nodes, so it must not begin before loops are excluded.
        problems = [*_loops(node)] or [*_record(loader, node, (), marks)]
        return (None if problems else loader.construct_document(node)), problems
    finally:
        loader.dispose()


def _check_limits(text: str) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            reason = f"The file is nested too deeply: more than {MAX_DEPTH} levels."
            raise LimitExceeded(_line(event), reason)
        if number > 2 * MAX_NODES:  # a list or mapping has two events, its start and its end
            raise LimitExceeded(_line(event), f"The file has more than {MAX_NODES} values.")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _loops(node: yaml.Node) -> Iterator[Problem]:
    """Finds an alias that refers to a value that contains it.

    Raises `LimitExceeded` if the aliases expand to too many values.
    """
    sizes: dict[int, int] = {}  # id of a node -> number of values below it, aliases expanded
    parents: set[int] = set()

    def size(node: yaml.Node, place: Place) -> int:
        if id(node) in parents:
            raise _Loop(place)
        if id(node) not in sizes:
            parents.add(id(node))
            sizes[id(node)] = 1 + sum(
                size(child, (*place, name)) for name, child in _children(node)
            )
            parents.remove(id(node))
        if sizes[id(node)] > MAX_NODES:
            line = node.start_mark.line + 1
            raise LimitExceeded(line, f"Its aliases expand to more than {MAX_NODES} values.")
        return sizes[id(node)]

    try:
        size(node, ())
    except _Loop as loop:
        yield loop.place, "This alias refers to a value that contains it."


class _Loop(Exception):
    def __init__(self, place: Place):
        super().__init__()
        self.place = place


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            yield name, key  # a key can be a list or a mapping in YAML, and an alias
            yield name, value
    elif isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)


def _record(loader: Any, node: yaml.Node, place: Place, marks: Marks) -> Iterator[Problem]:
    """Fills in `marks`, and makes every key a text: `no: 1` has the key `no`, not false."""
    if isinstance(node, yaml.MappingNode):
        yield from _record_mapping(loader, node, place, marks)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            marks.lines[(*place, position)] = value.start_mark.line + 1
            yield from _record(loader, value, (*place, position), marks)
    elif isinstance(node, yaml.ScalarNode):
        yield from _record_scalar(node, place, marks)


def _record_mapping(
    loader: Any, node: yaml.MappingNode, place: Place, marks: Marks
) -> Iterator[Problem]:
    # Duplicates are looked for before merging: a key of the mapping may replace a merged one.
    own: dict[str, int] = {}  # the mapping's own keys -> line
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG_PREFIX}merge":
            continue
        key.tag = f"{_TAG_PREFIX}str"
        line = key.start_mark.line + 1
        if key.value in own:
            marks.lines.setdefault((*place, key.value), own[key.value])
            yield (*place, key.value), f"Duplicate key: it appears again on line {line}."
        own.setdefault(key.value, line)
    if any(key.tag == f"{_TAG_PREFIX}merge" for key, _ in node.value):
        # Puts the merged keys before the own ones, which therefore win.
        loader.flatten_mapping(node)
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            key.tag = f"{_TAG_PREFIX}str"
            marks.lines[(*place, key.value)] = own.get(key.value, key.start_mark.line + 1)
            # A merged value of this key may have been recorded just before.
            marks.sources.pop((*place, key.value), None)
            yield from _record(loader, value, (*place, key.value), marks)


def _record_scalar(node: yaml.ScalarNode, place: Place, marks: Marks) -> Iterator[Problem]:
    # `style` is empty if there are no quotes. A tag outside the prefix is the file's own, which
    # the safe loader refuses.
    if not node.style and node.tag.startswith(_TAG_PREFIX) and node.tag != f"{_TAG_PREFIX}str":
        marks.sources[place] = node.value
    if node.style == "|":
        marks.blocks[place] = node.start_mark.line + 2  # the text begins below the `|`
    try:
        node.value.encode()
    except UnicodeEncodeError:
        yield place, "This text is not valid Unicode: it contains a lone surrogate."
