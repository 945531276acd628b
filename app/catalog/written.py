"""Keeps what a file says where YAML 1.1 would read something else.

`no` is false to YAML, `12:30` is 750, `01234` is 668, `1.10` is 1.1. Where a text is declared, the
text that was written is the value; where any value may stand, such spellings are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import Schema, fields

from app.catalog.nodes import Place, Problem

MAX_BITS = 1024
"""Of a whole number: the largest that other programs read as a number."""

_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_BASE_8 = re.compile(r"[-+]?0[0-7_]+")
_OTHER_NUMBER = re.compile(r"[-+]?[0-9].*_.*|[-+]?0b[01_]+")
_BOOLEAN = re.compile(r"(?:yes|no|on|off)", re.IGNORECASE)
_VALUES = frozenset(["enum", "const", "default", "examples"])
"""Keys of a JSON Schema below which values stand: elsewhere in it, `no` can only be a boolean."""

_QUOTES = "Put it in quotes if it is a text."

_DEFAULTS: dict[str, type[fields.Field[Any]]] = {
    "string": fields.String,
    "integer": fields.Integer,
    "number": fields.Float,
    "boolean": fields.Boolean,
}

Sources = Mapping[Place, str]


def restored(schema: Schema, data: Any, sources: Sources) -> tuple[Any, list[Problem]]:
    """The data with its texts as they were written, and what is refused in it."""
    problems: list[Problem] = []
    return _mapping(schema, data, (), sources, problems), problems


def _mapping(
    schema: Schema, data: Any, place: Place, sources: Sources, problems: list[Problem]
) -> Any:
    if not isinstance(data, dict):
        return data
    known = {field.data_key or name: field for name, field in schema.fields.items()}
    result = dict(data)
    for name in data.keys() & known.keys():
        field = known[name]
        if name == field.metadata.get("typed_by_sibling"):
            field = _declared(data.get("type"))
        result[name] = _value(field, data[name], (*place, name), sources, problems)
    return result


def _declared(type_name: Any) -> fields.Field[Any]:
    """What stands for the default of an input of this type."""
    return _DEFAULTS.get(type_name, fields.Raw)() if isinstance(type_name, str) else fields.Raw()


def _value(field: Any, value: Any, place: Place, sources: Sources, problems: list[Problem]) -> Any:
    if isinstance(field, fields.String):
        return _text(field, value, place, sources)
    if isinstance(field, fields.Nested) and isinstance(value, dict):
        return _mapping(field.schema, value, place, sources, problems)
    if isinstance(field, fields.List) and isinstance(value, list):
        inner = enumerate(value)
        return [_value(field.inner, item, (*place, at), sources, problems) for at, item in inner]
    if isinstance(field, fields.Dict) and field.value_field and isinstance(value, dict):
        return {
            key: _value(field.value_field, item, (*place, key), sources, problems)
            for key, item in value.items()
        }
    if not isinstance(field, fields.Boolean):
        number = isinstance(field, (fields.Number, fields.Nested))
        problems.extend(_refused(value, place, sources, number))
    return value


def _text(field: Any, value: Any, place: Place, sources: Sources) -> Any:
    source = sources.get(place)
    if value is None and not (source and field.metadata.get("keeps_tilde")):
        return value
    return value if source is None else source


def _refused(value: Any, place: Place, sources: Sources, number: bool) -> Iterator[Problem]:
    """What stands where any value may stand, or a number, and is not what it seems to be."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _refused(item, (*place, key), sources, number)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _refused(item, (*place, position), sources, number)
    elif reason := _unfit(value) or _misread(value, sources.get(place), place, number):
        yield place, reason


def _unfit(value: Any) -> str | None:
    """Why JSON cannot hold a value."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"YAML reads this as the number {value}, which JSON cannot hold."
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return "This number is too large."
    if value is None or isinstance(value, (str, bool, int, float)):
        return None
    return f"YAML makes a {type(value).__name__} of this, which JSON cannot hold. {_QUOTES}"


def _misread(value: Any, source: str | None, place: Place, number: bool) -> str | None:
    """Why a spelling is refused, though YAML 1.1 reads it."""
    if source is None:
        return None
    if _BASE_60.fullmatch(source):
        return f"YAML reads {source} as the number {value}. Write one plain number. {_QUOTES}"
    if _BASE_8.fullmatch(source):
        return (
            f"YAML reads {source} as the number {value}. Write it without the leading 0. {_QUOTES}"
        )
    if not number and _OTHER_NUMBER.fullmatch(source):
        return f"YAML reads {source} as the number {value}. Write it in plain digits. {_QUOTES}"
    if _BOOLEAN.fullmatch(source) and (_VALUES & set(place) or "schema" not in place):
        return f"YAML reads {source} as {str(value).lower()}. Write {str(value).lower()} if you mean that. {_QUOTES}"
    return None
