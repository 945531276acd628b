"""Inputs against what a target declares of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.fields import unknown_names
from app.catalog.model import MISSING, InputField
from app.errors import FieldError

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def check_inputs(
    declared: tuple[InputField, ...] | None, given: Mapping[str, Any]
) -> list[FieldError]:
    """One error for each input that is missing, undeclared, or of another type. None declared: all is well.

    The codes are `required`, `unknown_field` and `invalid_type`; the fields are called `inputs.<name>`.
    """
    if declared is None:
        return []
    names = {each.name for each in declared}
    unknown = unknown_names([name for name in given if name not in names], names)
    return [
        *(
            FieldError(f"inputs.{name}", message, "unknown_field")
            for name, [message] in unknown.items()
        ),
        *(error for each in declared if (error := _check(each, given)) is not None),
    ]


def inputs_schema(declared: tuple[InputField, ...] | None) -> dict[str, Any]:
    """The same as a JSON Schema (2020-12), for people and their tools."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
    }
    if declared is None:
        return schema | {"additionalProperties": True}
    return schema | {
        "properties": {each.name: _schema(each) for each in declared},
        "required": [each.name for each in declared if each.needed],
        "additionalProperties": False,
    }


def _schema(field: InputField) -> dict[str, Any]:
    schema: dict[str, Any] = {} if field.type == "any" else {"type": field.type}
    if field.description:
        schema["description"] = field.description
    if field.default is not MISSING:
        schema["default"] = field.default
    return schema


def _check(field: InputField, given: Mapping[str, Any]) -> FieldError | None:
    name = f"inputs.{field.name}"
    if field.name not in given:
        return FieldError(name, "This input is required.", "required") if field.needed else None
    if not fits(field.type, given[field.name]):
        return FieldError(name, f"Must be of the type {field.type}.", "invalid_type")
    return None


def with_defaults(
    declared: tuple[InputField, ...] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The inputs, and the declared default for each that is left out or `None`.

    `None` is what a step of a pipeline is given for an optional input that nobody sent.
    """
    defaults = {each.name: each.default for each in declared or () if each.default is not MISSING}
    return {
        **given,
        **{name: default for name, default in defaults.items() if given.get(name) is None},
    }


def type_of(value: Any) -> str:
    """The type of a JSON value, in the words of declared types; `null` for None."""
    return next((name for name in _TYPES if fits(name, value)), "null")


def fits(type_name: str, value: Any) -> bool:
    """Whether a JSON value is of a declared type. A boolean is no number, and 1.0 is no integer."""
    if type_name == "any":
        return True
    return isinstance(value, _TYPES[type_name]) and (
        type_name == "boolean" or not isinstance(value, bool)
    )
