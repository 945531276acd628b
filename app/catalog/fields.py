"""What marshmallow lacks for strict JSON and YAML: exact numbers, plain mappings, unknown names with a suggestion.

Knows no file format and no request; `app.api` may use it as well.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields

MAX_SUGGESTIONS = 20
"""With more unknown names than this none gets a suggestion: each costs a search, and a sender could want many."""


class ExactInteger(fields.Integer):
    """A whole number, written as one: neither `"3"`, nor `3.0`, nor `true`."""

    def _validated(self, value: Any) -> int:
        if type(value) is not int:
            raise self.make_error("invalid")
        return value


class ExactNumber(fields.Float):
    """A finite number, written as one: neither `"3"` nor `true`. Whole ones stay whole."""

    def _validated(self, value: Any) -> Any:
        if type(value) not in (int, float) or (type(value) is float and not math.isfinite(value)):
            raise self.make_error("invalid")
        return value


class ExactBoolean(fields.Boolean):
    """`true` or `false`; nothing else that may be meant so."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if type(value) is not bool:
            raise self.make_error("invalid", input=value)
        return value


class Table(fields.Dict):
    """A mapping with text keys, whose errors name the key alone, without marshmallow's `key` and `value` below it."""

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
            messages = {
                key: parts.get("value", parts.get("key")) for key, parts in error.messages.items()
            }
            raise ValidationError(messages) from None


class StrictSchema(Schema):
    """Refuses unknown names, and names the nearest known one."""

    class Meta:
        unknown = RAISE

    @property
    def names(self) -> set[str]:
        """The names as they stand in the data."""
        return {field.data_key or name for name, field in self.fields.items()}

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **kwargs: Any) -> None:
        if isinstance(error.messages, dict) and isinstance(data, Mapping):
            unknown = [name for name in error.messages if name in data and name not in self.names]
            error.messages |= unknown_names(unknown, self.names)


def unknown_names(unknown: Collection[Any], known: Iterable[str]) -> dict[Any, list[str]]:
    """The sentence for each name that is not known, as marshmallow wants it: in a list."""
    choices = list(known) if len(unknown) <= MAX_SUGGESTIONS else []
    return {name: [_unknown(name, choices)] for name in unknown}


def _unknown(name: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, 1)
    return f"Unknown field. Did you mean {near[0]!r}?" if near else "Unknown field."
