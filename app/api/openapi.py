"""How the description at /openapi.json is made from the schemas that validate, beyond what the
libraries do.
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
    """flask-smorest with our problems instead of its own error bodies, and the headers it would
    drop.

    An answer that is not described is not given: there is no `default` one.
    """

    DEFAULT_ERROR_RESPONSE_NAME = None

    _written: bytes | None = None

    def init_app(self, app: Flask, **options: Any) -> None:
        super().init_app(app, **options)
        for function in (_pattern, _exclusive, _inputs):
            self.ma_plugin.converter.add_attribute_function(function)

    def _openapi_json(self) -> Any:
        """The same for everybody, and large: it is written once."""
        if self._written is None:
            self._written = super()._openapi_json().get_data()
        return Response(self._written, content_type="application/json")

    def handle_http_exception(self, error: HTTPException) -> Any:
        return render_http_error(error)


def _pattern(converter: Any, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema searches where Python matches from the beginning, and knows no `\\Z`."""
    pattern = ret.get("pattern")
    return {"pattern": f"^{pattern.removesuffix(chr(92) + 'Z')}$"} if pattern else {}


def _exclusive(converter: Any, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """A number that must be more than the least, which apispec takes for one that may be equal to
    it.
    """
    if any(isinstance(each, Range) and not each.min_inclusive for each in field.validators):
        return {"exclusiveMinimum": ret.pop("minimum")}
    return {}


def _inputs(converter: Any, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """How many inputs there may be, and how their names may look."""
    if not isinstance(field, Inputs):
        return {}
    name = converter.field2property(field.key_field)
    longest = f"{{{name['minLength']},{name['maxLength']}}}$"
    pattern = name["pattern"].removesuffix("+$") + longest
    return {
        "maxProperties": MAX_INPUTS,
        "patternProperties": {pattern: {}},
        "additionalProperties": False,
    }
