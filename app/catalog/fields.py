"""Fields and a schema for marshmallow that take JSON and YAML strictly, without conversions.

The schemas of files (`schemas`) and those of requests (`app.api.schemas`) are built from them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields

from app.catalog.suggestions import did_you_mean

# Each suggestion costs a search through all known names. A request with thousands of unknown names
# would keep the process busy, so beyond this number none gets a suggestion.
MAX_SUGGESTIONS = 20


class ExactInteger(fields.Integer):
    """An integer; refuses `"3"`, `3.0` and `true`."""

    def _validated(self, value: Any) -> int:
        if type(value) is not int:  # not isinstance: `True` is an int in Python
            raise self.make_error("invalid")
        return value


class ExactNumber(fields.Float):
    """A finite number; refuses `"3"` and `true`. An integer stays an integer."""

    def _validated(self, value: Any) -> Any:
        if type(value) not in (int, float) or (type(value) is float and not math.isfinite(value)):
            raise self.make_error("invalid")
        return value


class ExactBoolean(fields.Boolean):
    """`true` or `false`; refuses `"yes"`, `1` and all else that marshmallow would convert."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if type(value) is not bool:
            raise self.make_error("invalid", input=value)
        return value


class Table(fields.Dict):
    """A mapping with string keys."""

    def __init__(
        self,
        values: fields.Field[Any] | None = None,
        keys: fields.Field[Any] | None = None,
        **options: Any,
    ):
        super().__init__(keys=keys or fields.String(), values=values, **options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call]
        except ValidationError as error:
            if not isinstance(error.messages, dict):
                raise
            # marshmallow puts `key` or `value` between a name and its errors, which would appear
            # in the path that users read (`defaults.tone.value`).
            messages = {
                name: parts.get("value", parts.get("key")) for name, parts in error.messages.items()
            }
            raise ValidationError(messages) from None


class StrictSchema(Schema):
    """Refuses unknown names and suggests the nearest known one."""

    class Meta:
        unknown = RAISE

    @property
    def names(self) -> set[str]:
        """The known names, as they are spelled in the data."""
        return {field.data_key or name for name, field in self.fields.items()}

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **kwargs: Any) -> None:
        """Replaces marshmallow's message for unknown names. marshmallow calls it, then raises."""
        if isinstance(error.messages, dict) and isinstance(data, Mapping):
            unknown = [name for name in error.messages if name in data and name not in self.names]
            error.messages |= unknown_names(unknown, self.names)


def unknown_names(unknown: Collection[Any], known: Iterable[str]) -> dict[Any, list[str]]:
    """The messages for unknown names in marshmallow's form: name -> list of one sentence."""
    choices = list(known) if len(unknown) <= MAX_SUGGESTIONS else []
    return {name: [f"Unknown field.{did_you_mean(str(name), choices)}"] for name in unknown}
