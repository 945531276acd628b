"""Inputs against what a target declares of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.fields import unknown_name
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


def check_inputs(declared: tuple[InputField, ...] | None, given: Mapping[str, Any]) -> list[FieldError]:
    """One error for each input that is missing, undeclared, or of another type. None declared: all is well."""
    if declared is None:
        return []
    names = {each.name for each in declared}
    errors = [
        FieldError(f"inputs.{name}", unknown_name(name, names), "unknown_field") for name in given if name not in names
    ]
    for each in declared:
        if each.name in given:
            if not fits(each.type, given[each.name]):
                message = f"Must be of the type {each.type}."
                errors.append(FieldError(f"inputs.{each.name}", message, "invalid_type"))
        elif each.required:
            errors.append(FieldError(f"inputs.{each.name}", "This input is required.", "required"))
    return errors


def with_defaults(declared: tuple[InputField, ...] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs, and the declared defaults for those that are not given."""
    defaults = {each.name: each.default for each in declared or () if each.default is not MISSING}
    return {**defaults, **given}


def fits(type_name: str, value: Any) -> bool:
    """Whether a JSON value is of a declared type. A boolean is no number, and 1.0 is no integer."""
    if type_name == "any":
        return True
    return isinstance(value, _TYPES[type_name]) and (type_name == "boolean" or not isinstance(value, bool))
