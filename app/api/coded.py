"""marshmallow's sentences, each with the stable code that a client gets beside it.

A code belongs to the kind of mistake that a field or a validator found, whatever the sentence says.
"""

from __future__ import annotations

from typing import Any

from marshmallow import fields, validate

UNKNOWN_FIELD, UNKNOWN_PARAMETER, READ_ONLY = "unknown_field", "unknown_parameter", "read_only"
REQUIRED, INVALID_TYPE, INVALID_TEXT = "required", "invalid_type", "invalid_text"
INVALID_CHOICE, OUT_OF_RANGE = "invalid_choice", "out_of_range"

CODES = (
    *(UNKNOWN_FIELD, UNKNOWN_PARAMETER, READ_ONLY, REQUIRED),
    *(INVALID_TYPE, INVALID_TEXT, INVALID_CHOICE, OUT_OF_RANGE),
)


class Coded(str):
    """A sentence with its code, which stays with it when marshmallow fills it in."""

    code: str

    def __new__(cls, sentence: str, code: str = "invalid") -> Coded:
        made = super().__new__(cls, sentence)
        made.code = code
        return made

    def format(self, *args: Any, **values: Any) -> Coded:
        return Coded(super().format(*args, **values), self.code)


class Range(validate.Range):
    message_min = Coded(validate.Range.message_min, OUT_OF_RANGE)
    message_max = Coded(validate.Range.message_max, OUT_OF_RANGE)
    message_all = Coded(validate.Range.message_all, OUT_OF_RANGE)


class Length(validate.Length):
    message_min = Coded(validate.Length.message_min, OUT_OF_RANGE)
    message_max = Coded(validate.Length.message_max, OUT_OF_RANGE)
    message_all = Coded(validate.Length.message_all, OUT_OF_RANGE)
    message_equal = Coded(validate.Length.message_equal, OUT_OF_RANGE)


class OneOf(validate.OneOf):
    default_message = Coded(validate.OneOf.default_message, INVALID_CHOICE)


def give_codes(field: fields.Field[Any]) -> None:
    """To what a field says itself, and the fields inside of it: that it is missing, or of another
    type.
    """
    field.error_messages = {
        key: Coded(str(text), REQUIRED if key == "required" else INVALID_TYPE)
        for key, text in field.error_messages.items()
    }
    inner = (getattr(field, name, None) for name in ("inner", "key_field", "value_field"))
    for part in inner:
        if part is not None:
            give_codes(part)
