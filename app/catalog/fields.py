"""What marshmallow lacks for strict JSON and YAML: exact numbers, and unknown names with a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields


class ExactInteger(fields.Integer):
    """A whole number, written as one: neither `"3"`, nor `3.0`, nor `true`."""

    def _validated(self, value: Any) -> int:
        if type(value) is not int:
            raise self.make_error("invalid")
        return value


class ExactNumber(fields.Float):
    """A number, written as one: neither `"3"` nor `true`. Whole ones stay whole."""

    def _validated(self, value: Any) -> Any:
        if type(value) not in (int, float) or value != value or value in (float("inf"), float("-inf")):
            raise self.make_error("invalid")
        return value


class ExactBoolean(fields.Boolean):
    """`true` or `false`; nothing else that may be meant so."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if type(value) is not bool:
            raise self.make_error("invalid", input=value)
        return value


class StrictSchema(Schema):
    """Refuses unknown names, and names the nearest known one."""

    class Meta:
        unknown = RAISE

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **kwargs: Any) -> None:
        if isinstance(error.messages, dict) and isinstance(data, Mapping):
            for name in error.messages:
                if name in data and name not in self.fields:
                    error.messages[name] = [unknown_name(name, self.fields)]


def unknown_name(name: Any, known: Iterable[str]) -> str:
    """The sentence for a name that is not known."""
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f"Unknown field. Did you mean {near[0]!r}?" if near else "Unknown field."
