"""Reading a YAML file so that whatever is wrong in it can be shown with its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.errors import ConfigurationError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, eight times as fast

Place = tuple[str | int, ...]
"""Where in a document: the keys and positions on the way there."""


@dataclass(frozen=True)
class Document:
    """A YAML file whose top is a mapping."""

    path: Path
    data: dict[str, Any]
    lines: dict[Place, int]

    def problem(self, place: Place, message: str) -> str:
        """One line for a person: file, line, where, what."""
        known = place
        while known and known not in self.lines:
            known = known[:-1]
        where = ".".join(str(part) for part in place)
        return f"{self.path}:{self.lines[known]}: {where + ': ' if where else ''}{message}"


def read(path: Path) -> Document:
    """Raises `ConfigurationError` where it can not be read, is not YAML, or holds a key twice."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines: dict[Place, int] = {(): 1}
        _note_lines(node, (), lines, path)
        data = loader.construct_document(node) if node is not None else None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}:1: The file is not UTF-8.") from None
    except OSError as error:
        raise ConfigurationError(f"{path}:1: The file can not be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}:{_line_of(error)}: This is not YAML: {_reason(error)}.") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigurationError(f"{path}:1: The file must be a mapping with text keys.")
    return Document(path, data, lines)


def _note_lines(node: Any, place: Place, lines: dict[Place, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, key.value)
            line = key.start_mark.line + 1
            if here in lines:
                raise ConfigurationError(f"{path}:{line}: The key {key.value!r} stands here twice.")
            lines[here] = line
            _note_lines(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            lines[(*place, position)] = value.start_mark.line + 1
            _note_lines(value, (*place, position), lines, path)


def _line_of(error: yaml.YAMLError) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


def _reason(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]
