"""Builds the description at /openapi.json from the schemas, with flask-smorest and apispec.

`app.api.build` creates it. The functions here translate what these libraries do not: patterns,
exclusive minimums and inputs.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, Response
from flask_smorest import Api
from marshmallow import fields
from marshmallow.validate import Range
from werkzeug.exceptions import HTTPException

from app.api.problems import render_http_error
from app.api.schemas import MAX_INPUTS, Inputs


class ApiDescription(Api):
    """flask-smorest's `Api` with our problems in place of its own error bodies."""

    DEFAULT_ERROR_RESPONSE_NAME = None  # operations list every answer, so none needs `default`

    _written: bytes | None = None

    def init_app(self, app: Flask, **options: Any) -> None:
        super().init_app(app, **options)
        for function in (_pattern, _exclusive, _inputs):
            self.ma_plugin.converter.add_attribute_function(function)

    def _openapi_json(self) -> Any:
        """Writes the description at the first request only: it is large and never changes."""
        if self._written is None:
            self._written = super()._openapi_json().get_data()
        return Response(self._written, content_type="application/json")

    def handle_http_exception(self, error: HTTPException) -> Any:
        return render_http_error(error)


def _pattern(converter: Any, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Anchors a pattern, since JSON Schema searches, and replaces `\\Z`, which it does not know."""
    pattern = ret.get("pattern")
    return {"pattern": f"^{pattern.removesuffix(chr(92) + 'Z')}$"} if pattern else {}


def _exclusive(converter: Any, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Corrects an exclusive minimum, which apispec describes as an inclusive one."""
    if any(
        isinstance(validator, Range) and not validator.min_inclusive
        for validator in field.validators
    ):
        return {"exclusiveMinimum": ret.pop("minimum")}
    return {}


def _inputs(converter: Any, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Describes how many inputs there may be, and which names."""
    if not isinstance(field, Inputs):
        return {}
    # Generators of clients make a class with free properties of `additionalProperties`. They take
    # an object that only has `patternProperties` for one without any property.
    return {
        "maxProperties": MAX_INPUTS,
        "propertyNames": converter.field2property(field.key_field),
        "additionalProperties": True,
    }
