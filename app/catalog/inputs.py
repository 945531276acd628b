"""Checks the inputs of a run against those that its agent or pipeline declares.

The service checks a start with it; the runtime checks each step and fills in defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.fields import unknown_names
from app.catalog.model import MISSING, InputField
from app.domain.errors import FieldError

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
    """One error for each input that is missing, undeclared, or of the wrong type.

    If `declared` is None, every input is accepted. The codes are `required`, `unknown_field` and
    `invalid_type`; the fields are named `inputs.<name>`.
    """
    if declared is None:
        return []
    names = {field.name for field in declared}
    unknown = unknown_names([name for name in given if name not in names], names)
    errors = [
        FieldError(f"inputs.{name}", message, "unknown_field")
        for name, [message] in unknown.items()
    ]
    errors += [error for field in declared if (error := _check(field, given)) is not None]
    return errors


def inputs_schema(declared: tuple[InputField, ...] | None) -> dict[str, Any]:
    """The JSON Schema (2020-12) that accepts exactly what `check_inputs` accepts."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
    }
    if declared is None:
        return schema | {"additionalProperties": True}
    return schema | {
        "properties": {field.name: _property(field) for field in declared},
        "required": [field.name for field in declared if field.needed],
        "additionalProperties": False,
    }


def _property(field: InputField) -> dict[str, Any]:
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
        return FieldError(name, f"Must be of type {field.type}.", "invalid_type")
    return None


def with_defaults(
    declared: tuple[InputField, ...] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The inputs, with the declared default for each one that is missing or `None`."""
    # A step of a pipeline gets None for an optional pipeline input that the client did not send;
    # the default of the step's agent must apply there, too.
    defaults = {field.name: field.default for field in declared or ()}
    filled = {
        name: default
        for name, default in defaults.items()
        if default is not MISSING and given.get(name) is None
    }
    return {**given, **filled}


def type_of(value: Any) -> str:
    """The declared type that a JSON value has; `null` for None."""
    return next((name for name in _TYPES if fits(name, value)), "null")


def fits(type_name: str, value: Any) -> bool:
    """Whether a JSON value is of a declared type. `true` is not a number, 1.0 not an integer."""
    if type_name == "any":
        return True
    if isinstance(value, bool):  # a subclass of int in Python
        return type_name == "boolean"
    return isinstance(value, _TYPES[type_name])
