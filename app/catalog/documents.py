"""Reading a YAML file so that whatever is wrong in it can be shown with its line.

`files` reads the bytes, `nodes` bounds what they may hold, and `written` keeps what YAML would change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from marshmallow import Schema, ValidationError

from app.catalog import nodes, written
from app.catalog.files import read_text
from app.catalog.nodes import Marks, Place, Problem
from app.errors import ConfigurationError

MAX_MESSAGE_CHARACTERS = 500

__all__ = ["Document", "Place", "Problem", "read"]


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file whose top is a mapping, and where in the file its parts stand."""

    path: Path
    data: dict[str, Any]
    marks: Marks

    def checked(self, schema: Schema) -> dict[str, Any]:
        """What the schema makes of the file. Raises `ConfigurationError` with a line for each problem."""
        data, problems = written.restored(schema, self.data, self.marks.sources)
        try:
            loaded = dict(schema.load(data))
        except ValidationError as error:
            known = {place for place, _ in problems}
            problems += [found for found in _flat(error.messages, ()) if found[0] not in known]
        if problems:
            raise self.refusal(problems)
        return loaded

    def refusal(self, problems: Iterable[Problem]) -> ConfigurationError:
        """One line for each problem, in the file's order: file, line, where, what."""
        return self.refusal_at((self._line(place), place, message) for place, message in problems)

    def refusal_at(self, problems: Iterable[tuple[int, Place, str]]) -> ConfigurationError:
        """The same for problems that know their line."""
        ordered = sorted(problems, key=lambda problem: problem[0])
        return ConfigurationError("\n".join(self._describe(*problem) for problem in ordered))

    def line_in_text(self, place: Place, line: int) -> int:
        """The file's line of a line of a text. Only a block (`|`) has lines of its own in the file."""
        first = self.marks.blocks.get(place)
        return self._line(place) if first is None else first + line - 1

    def _line(self, place: Place) -> int:
        """The line of the nearest part of the way there that stands in the file."""
        while place not in self.marks.lines:
            place = place[:-1]
        return self.marks.lines[place]

    def _describe(self, line: int, place: Place, message: str) -> str:
        where = _short(".".join(str(part) for part in place), 200)
        message = _short(message, MAX_MESSAGE_CHARACTERS)
        return f"{self.path}:{line}: {where + ': ' if where else ''}{message}"


def _short(text: str, limit: int) -> str:
    """On one line, and no longer than a person reads."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def read(path: Path) -> Document:
    """Raises `ConfigurationError` where it can not be read, is not YAML, or holds a key twice."""
    text = read_text(path)
    marks = Marks()
    try:
        data, problems = nodes.load(text, marks)
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"{path}:{_line_of(error)}: This is not YAML: {_reason(error)}."
        ) from None
    except nodes.TooMuch as error:
        raise ConfigurationError(f"{path}:{error.line}: {error}") from None
    except ValueError as error:  # a number that is none, or has too many digits
        raise ConfigurationError(f"{path}:1: This is not YAML: {_reason(error)}.") from None
    if not isinstance(data, dict) and not problems:
        raise ConfigurationError(f"{path}:1: The file must be a mapping of keys to values.")
    document = Document(path, data, marks)
    if problems:
        raise document.refusal(problems)
    return document


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
    return str(getattr(error, "problem", None) or error).splitlines()[0].rstrip(".")
