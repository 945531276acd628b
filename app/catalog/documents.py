"""Reads a YAML file and checks it against a schema, with the line of everything that is wrong.

`agents` and `pipelines` read all their files through it. `files` reads the bytes, `nodes` parses
them within limits, and `yaml_spelling` keeps texts that YAML would take for something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from marshmallow import Schema, ValidationError

from app.catalog import nodes, yaml_spelling
from app.catalog.files import read_text
from app.catalog.nodes import Marks, Place, Problem
from app.domain.errors import ConfigurationError

# Messages can quote the file, whose keys and values can be long. An error stays readable, and a
# file cannot flood the log.
MAX_MESSAGE_CHARACTERS = 500
MAX_PLACE_CHARACTERS = 200

__all__ = ["Document", "Place", "Problem", "read"]


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file whose top level is a mapping. `marks` has the lines of its parts."""

    path: Path
    data: dict[str, Any]
    marks: Marks

    def validated(self, schema: Schema) -> dict[str, Any]:
        """The data as the schema loads it. Raises `ConfigurationError` with a line per problem."""
        data, problems = yaml_spelling.restored(schema, self.data, self.marks.sources)
        try:
            loaded = dict(schema.load(data))
        except ValidationError as error:
            # A misspelled value often breaks the schema too. Its spelling is the better message.
            known = {place for place, _ in problems}
            problems += [found for found in _flat(error.messages, ()) if found[0] not in known]
        if problems:
            raise self.error(problems)
        return loaded

    def error(self, problems: Iterable[Problem]) -> ConfigurationError:
        """An error with one line per problem (file, line, place, message), in the file's order."""
        return ConfigurationError("\n".join(self.lines(problems)))

    def error_at(self, problems: Iterable[tuple[int, Place, str]]) -> ConfigurationError:
        """The same for problems that know their line."""
        return ConfigurationError("\n".join(self.lines_at(problems)))

    def lines(self, problems: Iterable[Problem]) -> tuple[str, ...]:
        """The lines of `error`, for what is only probably wrong."""
        return self.lines_at((self._line(place), place, message) for place, message in problems)

    def lines_at(self, problems: Iterable[tuple[int, Place, str]]) -> tuple[str, ...]:
        """The same for problems that know their line."""
        ordered = sorted(problems, key=lambda problem: problem[0])
        return tuple(self._describe(*problem) for problem in ordered)

    def line_in_text(self, place: Place, line: int) -> int:
        """The line in the file of a `line` in the text at `place`, both from 1."""
        # Only a block text (`|`) keeps its line breaks; any other one counts as its first line.
        first = self.marks.blocks.get(place)
        return self._line(place) if first is None else first + line - 1

    def _line(self, place: Place) -> int:
        """The line of the place, or of its nearest parent that the file has."""
        # A missing key has no line of its own. `()`, the whole file, is always known.
        while place not in self.marks.lines:
            place = place[:-1]
        return self.marks.lines[place]

    def _describe(self, line: int, place: Place, message: str) -> str:
        where = _short(".".join(str(part) for part in place), MAX_PLACE_CHARACTERS)
        message = _short(message, MAX_MESSAGE_CHARACTERS)
        return f"{self.path}:{line}: {where + ': ' if where else ''}{message}"


def _short(text: str, limit: int) -> str:
    """The text on one line of at most `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def read(path: Path) -> Document:
    """Raises `ConfigurationError` if the file cannot be read, is not YAML, or repeats a key."""
    text = read_text(path)
    marks = Marks()
    try:
        data, problems = nodes.load(text, marks)
    except yaml.YAMLError as error:
        message = f"{path}:{_line_of(error)}: This is not valid YAML: {_reason(error)}."
        raise ConfigurationError(message) from None
    except nodes.LimitExceeded as error:
        raise ConfigurationError(f"{path}:{error.line}: {error}") from None
    except ValueError as error:  # from int(): too many digits
        message = f"{path}:1: This is not valid YAML: {_reason(error)}."
        raise ConfigurationError(message) from None
    if not isinstance(data, dict) and not problems:
        raise ConfigurationError(f"{path}:1: The file must be a mapping of keys to values.")
    document = Document(path, data, marks)
    if problems:
        raise document.error(problems)
    return document


def _flat(messages: Any, place: Place) -> Iterator[Problem]:
    """Turns marshmallow's nested messages into a flat list."""
    if isinstance(messages, dict):
        for key, value in messages.items():
            # `_schema` is marshmallow's name for an error of the whole mapping.
            yield from _flat(value, place if key == "_schema" else (*place, key))
    else:
        for message in messages:
            yield place, message


def _line_of(error: Exception) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


def _reason(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0].rstrip(".")
