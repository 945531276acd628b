"""Gives marshmallow's error messages the stable codes that clients get beside them.

`app.api.schemas` uses these validators instead of marshmallow's. The code depends on the validator
or field that found the mistake, never on the words of the message.
"""

from __future__ import annotations

from typing import Any

from marshmallow import fields, validate

UNKNOWN_FIELD = "unknown_field"
UNKNOWN_PARAMETER = "unknown_parameter"
READ_ONLY = "read_only"
REQUIRED = "required"
INVALID_TYPE = "invalid_type"
INVALID_TEXT = "invalid_text"
INVALID_CHOICE = "invalid_choice"
OUT_OF_RANGE = "out_of_range"

CODES = (
    *(UNKNOWN_FIELD, UNKNOWN_PARAMETER, READ_ONLY, REQUIRED),
    *(INVALID_TYPE, INVALID_TEXT, INVALID_CHOICE, OUT_OF_RANGE),
)


class Coded(str):
    """A message with its code."""

    code: str

    def __new__(cls, message: str, code: str = "invalid") -> Coded:
        made = super().__new__(cls, message)
        made.code = code
        return made

    # marshmallow fills in its messages with `format`, which would return a plain `str`.
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
    """Gives codes to a field's own messages (it is missing, or has the wrong type), and to those of
    the fields inside it.
    """
    field.error_messages = {
        key: Coded(str(text), REQUIRED if key == "required" else INVALID_TYPE)
        for key, text in field.error_messages.items()
    }
    inner = (getattr(field, name, None) for name in ("inner", "key_field", "value_field"))
    for part in inner:
        if part is not None:
            give_codes(part)
