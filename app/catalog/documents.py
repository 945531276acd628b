"""Reading a YAML file so that whatever is wrong in it can be shown with its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from marshmallow import Schema, ValidationError

from app.errors import ConfigurationError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, eight times as fast

Place = tuple[str | int, ...]
"""Where in a document: the keys and positions on the way there."""

Problem = tuple[Place, str]
"""What is wrong, and where."""


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file whose top is a mapping. `lines` has the line, from 1, of every key and list item."""

    path: Path
    data: dict[str, Any]
    lines: dict[Place, int]

    def checked(self, schema: Schema) -> dict[str, Any]:
        """What the schema makes of the file. Raises `ConfigurationError` with a line for each problem."""
        try:
            return dict(schema.load(self.data))
        except ValidationError as error:
            raise self.refusal(_flat(error.messages, ())) from None

    def refusal(self, problems: Iterable[Problem]) -> ConfigurationError:
        """One line for each problem, in the file's order: file, line, where, what."""
        ordered = sorted(problems, key=lambda problem: self._line(problem[0]))
        return ConfigurationError("\n".join(self._describe(place, message) for place, message in ordered))

    def _line(self, place: Place) -> int:
        """The line of the nearest part of the way there that stands in the file."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def _describe(self, place: Place, message: str) -> str:
        where = ".".join(str(part) for part in place)
        return f"{self.path}:{self._line(place)}: {where + ': ' if where else ''}{message}"


def read(path: Path) -> Document:
    """Raises `ConfigurationError` where it can not be read, is not YAML, or holds a key twice."""
    lines: dict[Place, int] = {(): 1}
    try:
        data, problems = _parse(path.read_text(encoding="utf-8"), lines)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}:1: The file is not UTF-8.") from None
    except OSError as error:
        raise ConfigurationError(f"{path}:1: The file can not be read: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: a date or a number that is none, as in 2024-13-01
        raise ConfigurationError(f"{path}:{_line_of(error)}: This is not YAML: {_reason(error)}.") from None
    except RecursionError:
        raise ConfigurationError(f"{path}:1: The file is nested too deeply.") from None
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path}:1: The file must be a mapping of keys to values.")
    document = Document(path, data, lines)
    if problems:
        raise document.refusal(problems)
    return document


def _parse(text: str, lines: dict[Place, int]) -> tuple[Any, list[Problem]]:
    """The one document in the text, and the keys in it that stand twice. Fills in `lines`."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        problems = list(_note_lines(node, (), lines, set()))
        return loader.construct_document(node), problems
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node, place: Place, lines: dict[Place, int], seen: set[int]) -> Iterator[Problem]:
    """Walks each node once: an alias is the node it stands for, and may even contain itself."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys = [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        for key, value in keys:
            here = (*place, key.value)
            if here in lines:
                yield here, f"This key stands here again, on line {key.start_mark.line + 1}."
                continue
            lines[here] = key.start_mark.line + 1
            yield from _note_lines(value, here, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            here = (*place, position)
            lines[here] = value.start_mark.line + 1
            yield from _note_lines(value, here, lines, seen)


def _flat(messages: Any, place: Place) -> Iterator[Problem]:
    """marshmallow's nested messages, one by one. `_schema` is about the whole."""
    if isinstance(messages, dict):
        for key, value in messages.items():
            yield from _flat(value, place if key == "_schema" else (*place, key))
    else:
        for message in messages:
            yield place, message


def _line_of(error: Exception) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


def _reason(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
