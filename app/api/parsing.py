"""Reads the body, headers and query of a request, and validates them with marshmallow schemas.

A view lists its readers in `ApiBlueprint.operation`, which calls them before the view. Each reader
also describes its part for OpenAPI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from flask import Request
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError

from app.api.json_body import MAX_SHOWN_NAME, read_json_object
from app.domain.errors import FieldError, InvalidRequest


class Reader(Protocol):
    """Reads one part of a request.

    Raises `InvalidRequest` for wrong fields, and a `Problem` if the part cannot be read at all.
    """

    def __call__(self, request: Request) -> dict[str, Any]: ...

    def describe(self, operation: dict[str, Any]) -> None:
        """Adds this part to the description of an operation, which is in OpenAPI's form."""


class Body:
    """The JSON object in the body. An `optional` body may be left out, and then counts as `{}`."""

    def __init__(
        self, schema: Schema, *, optional: bool = False, examples: dict[str, Any] | None = None
    ):
        self._schema = schema
        self._optional = optional
        self._examples = examples

    def __call__(self, request: Request) -> dict[str, Any]:
        if self._optional and not request.content_length and not request.get_data(cache=True):
            return loaded(self._schema, {}, RAISE)
        return loaded(self._schema, read_json_object(request), RAISE)

    def describe(self, operation: dict[str, Any]) -> None:
        content = {
            "schema": self._schema,
            **({"examples": self._examples} if self._examples else {}),
        }
        operation["requestBody"] = {
            "required": not self._optional,
            "content": {"application/json": content},
        }


class Headers:
    """The headers that the schema names. All other headers are ignored."""

    def __init__(self, schema: Schema):
        self._schema = schema
        self._names = [field.data_key or name for name, field in schema.fields.items()]
        self._keys = [f"HTTP_{name.upper().replace('-', '_')}" for name in self._names]
        self._defaults = loaded(schema, {}, EXCLUDE)  # most requests have none of the headers

    def __call__(self, request: Request) -> dict[str, Any]:
        environ = request.environ
        sent = {
            name: environ[key]
            for name, key in zip(self._names, self._keys, strict=True)
            if key in environ
        }
        return loaded(self._schema, sent, EXCLUDE) if sent else dict(self._defaults)

    def describe(self, operation: dict[str, Any]) -> None:
        operation.setdefault("parameters", []).append({"in": "headers", "schema": self._schema})


class Query:
    """The query parameters. Refuses a parameter that is sent twice."""

    def __init__(self, schema: Schema):
        self._schema = schema
        self._defaults = loaded(schema, {}, RAISE)  # most requests have no parameters

    def __call__(self, request: Request) -> dict[str, Any]:
        if not request.query_string:
            return dict(self._defaults)
        duplicates = [name for name, values in request.args.lists() if len(values) > 1]
        if duplicates:
            raise InvalidRequest(
                [FieldError(name, "Duplicate parameter.", "repeated") for name in duplicates]
            )
        return loaded(self._schema, request.args.to_dict(), RAISE)

    def describe(self, operation: dict[str, Any]) -> None:
        operation.setdefault("parameters", []).append({"in": "query", "schema": self._schema})


def refuse_query(request: Request) -> None:
    """Raises `InvalidRequest` for any parameter. Called for views that have no `Query` reader."""
    if request.query_string and request.args:
        message = "Unknown parameter. This endpoint takes no parameters."
        raise InvalidRequest(
            [FieldError(name, message, "unknown_parameter") for name in request.args]
        )


def loaded(schema: Schema, data: Mapping[str, Any], unknown: Any = RAISE) -> dict[str, Any]:
    """Validates data. Raises `InvalidRequest` with one error for each wrong field."""
    try:
        return dict(schema.load(data, unknown=unknown))
    except ValidationError as error:
        raise InvalidRequest(list(_flat(error.messages, ()))) from None


def _flat(messages: Any, path: tuple[str, ...]) -> Iterator[FieldError]:
    """Flattens marshmallow's nested messages: one error for each field, with its first message."""
    if isinstance(messages, dict):
        for name, content in messages.items():
            # marshmallow files errors of a whole object under `_schema`
            yield from _flat(content, path if name == "_schema" else (*path, shown(str(name))))
    else:
        yield FieldError(".".join(path), str(messages[0]), getattr(messages[0], "code", "invalid"))


def shown(name: str) -> str:
    """Shortens a name from a request to what an answer may repeat."""
    return name if len(name) <= MAX_SHOWN_NAME else f"{name[:MAX_SHOWN_NAME]}..."
