"""Keeps the spelling of a YAML file where YAML 1.1 would change the meaning of what is written.

YAML reads `no` as false, `12:30` as 750, `01234` as 668 and `1.10` as 1.1. Where a schema declares
a text, the spelling in the file is the value. Where any value is allowed, such spellings are
refused, since nobody can know which was meant. `documents` calls `restored` before a schema loads
the data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import Schema, fields

from app.catalog.nodes import Place, Problem

# The largest integer in a file. Larger ones exceed the range of a double, which most languages use
# for numbers.
MAX_BITS = 1024

_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_BASE_8 = re.compile(r"[-+]?0[0-7_]+")
_OTHER_NUMBER = re.compile(r"[-+]?[0-9].*_.*|[-+]?0b[01_]+")
_BOOLEAN = re.compile(r"(?:yes|no|on|off)", re.IGNORECASE)

# Keys of a JSON Schema that hold values. Elsewhere in a schema, `no` can only mean false
# (`additionalProperties: no`), so it is accepted.
_VALUE_KEYWORDS = frozenset(["enum", "const", "default", "examples"])

_QUOTES = "put it in quotes if you mean text."

_FIELDS_BY_TYPE: dict[str, type[fields.Field[Any]]] = {
    "string": fields.String,
    "integer": fields.Integer,
    "number": fields.Float,
    "boolean": fields.Boolean,
}

Sources = Mapping[Place, str]
"""The spellings that `nodes` recorded: see `Marks.sources`."""


def restored(schema: Schema, data: Any, sources: Sources) -> tuple[Any, list[Problem]]:
    """The data with the texts as they are spelled in the file, and what is refused in it."""
    problems: list[Problem] = []
    return _mapping(schema, data, (), sources, problems), problems


def _mapping(
    schema: Schema, data: Any, place: Place, sources: Sources, problems: list[Problem]
) -> Any:
    if not isinstance(data, dict):
        return data  # the schema reports it
    known = {field.data_key or name: field for name, field in schema.fields.items()}
    result = dict(data)
    for name in data.keys() & known.keys():
        field = known[name]
        if name == field.metadata.get("typed_by_sibling"):
            field = _field_for(data.get("type"))
        result[name] = _value(field, data[name], (*place, name), sources, problems)
    return result


def _field_for(type_name: Any) -> fields.Field[Any]:
    """The field for the default of an input of this type."""
    if not isinstance(type_name, str):
        return fields.Raw()
    return _FIELDS_BY_TYPE.get(type_name, fields.Raw)()


def _value(field: Any, value: Any, place: Place, sources: Sources, problems: list[Problem]) -> Any:
    is_scalar = not isinstance(value, (dict, list))
    if isinstance(field, fields.String) or (is_scalar and field.metadata.get("or_text")):
        return _text(field, value, place, sources)
    if isinstance(field, fields.Nested) and isinstance(value, dict):
        return _mapping(field.schema, value, place, sources, problems)
    if isinstance(field, fields.List) and isinstance(value, list):
        return [
            _value(field.inner, item, (*place, position), sources, problems)
            for position, item in enumerate(value)
        ]
    if isinstance(field, fields.Dict) and field.value_field and isinstance(value, dict):
        return {
            key: _value(field.value_field, item, (*place, key), sources, problems)
            for key, item in value.items()
        }
    if not isinstance(field, fields.Boolean):
        # Numbers are also allowed where a schema takes a mapping: `retries: 3`.
        is_number = isinstance(field, (fields.Number, fields.Nested))
        problems.extend(_refused(value, place, sources, is_number))
    return value


def _text(field: Any, value: Any, place: Place, sources: Sources) -> Any:
    source = sources.get(place)
    # `~` and nothing at all are null: the key counts as left out. A separator may be a tilde.
    if value is None and not (source and field.metadata.get("keeps_tilde")):
        return value
    return value if source is None else source


def _refused(value: Any, place: Place, sources: Sources, is_number: bool) -> Iterator[Problem]:
    """The problems of a value whose type no schema declares, or that is declared as a number."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _refused(item, (*place, key), sources, is_number)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _refused(item, (*place, position), sources, is_number)
    elif reason := _not_json(value) or _ambiguous(value, sources.get(place), place, is_number):
        yield place, reason


def _not_json(value: Any) -> str | None:
    """Why JSON cannot represent a value; None if it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"YAML reads this as the number {value}, which JSON cannot represent."
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return "This number is too large."
    if value is None or isinstance(value, (str, bool, int, float)):
        return None
    kind = type(value).__name__  # `bytes` of !!binary, `set` of !!set
    return f"YAML reads this as a value of type {kind}, which JSON cannot represent; {_QUOTES}"


def _ambiguous(value: Any, source: str | None, place: Place, is_number: bool) -> str | None:
    """Why a spelling is refused although YAML 1.1 reads it; None if it is clear."""
    if source is None:
        return None
    if _BASE_60.fullmatch(source):
        advice = "Write a plain number"
    elif _BASE_8.fullmatch(source):
        advice = "Write it without the leading 0"
    elif not is_number and _OTHER_NUMBER.fullmatch(source):
        advice = "Write plain digits"
    elif _BOOLEAN.fullmatch(source) and (_VALUE_KEYWORDS & set(place) or "schema" not in place):
        meant = str(value).lower()
        return f"YAML reads {source} as {meant}. Write {meant} if you mean that, or {_QUOTES}"
    else:
        return None
    return f"YAML reads {source} as the number {value}. {advice}, or {_QUOTES}"
