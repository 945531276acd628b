"""What a view reads of its request, through marshmallow and by our rules: strict JSON, 400, unknown
names refused.

Each reader also describes what it reads, for OpenAPI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from flask import Request
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError

from app.api.json_body import MAX_SHOWN_NAME, read_json_object
from app.domain.errors import FieldError, InvalidRequest


class Reader(Protocol):
    """Reads a part of a request. Raises `InvalidRequest`, and a `Problem` where it is no question
    of fields.
    """

    def __call__(self, request: Request) -> dict[str, Any]: ...

    def describe(self, operation: dict[str, Any]) -> None:
        """Adds what it reads to an operation of OpenAPI's."""


class Body:
    """The JSON object of a body, which may be left out where it is `optional`."""

    def __init__(
        self, schema: Schema, *, optional: bool = False, examples: dict[str, Any] | None = None
    ):
        self._schema, self._optional, self._examples = schema, optional, examples

    def __call__(self, request: Request) -> dict[str, Any]:
        if self._optional and not request.content_length and not request.get_data(cache=True):
            return _loaded(self._schema, {}, RAISE)
        return _loaded(self._schema, read_json_object(request), RAISE)

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
    """Headers by their names in the schema; all others are let through."""

    def __init__(self, schema: Schema):
        self._schema = schema
        self._names = [field.data_key or name for name, field in schema.fields.items()]
        self._keys = [f"HTTP_{name.upper().replace('-', '_')}" for name in self._names]
        self._of_none = _loaded(schema, {}, EXCLUDE)

    def __call__(self, request: Request) -> dict[str, Any]:
        environ = request.environ
        sent = {
            name: environ[key]
            for name, key in zip(self._names, self._keys, strict=True)
            if key in environ
        }
        return _loaded(self._schema, sent, EXCLUDE) if sent else dict(self._of_none)

    def describe(self, operation: dict[str, Any]) -> None:
        operation.setdefault("parameters", []).append({"in": "headers", "schema": self._schema})


class Query:
    """The parameters behind the `?`."""

    def __init__(self, schema: Schema):
        self._schema, self._of_none = schema, _loaded(schema, {}, RAISE)

    def __call__(self, request: Request) -> dict[str, Any]:
        if not request.query_string:
            return dict(self._of_none)
        twice = [name for name, values in request.args.lists() if len(values) > 1]
        if twice:
            raise InvalidRequest(
                [FieldError(name, "This parameter stands twice.", "repeated") for name in twice]
            )
        return _loaded(self._schema, request.args.to_dict(), RAISE)

    def describe(self, operation: dict[str, Any]) -> None:
        operation.setdefault("parameters", []).append({"in": "query", "schema": self._schema})


def refuse_query(request: Request) -> None:
    """For a view that takes no parameters."""
    if request.query_string and request.args:
        message = "Unknown parameter. This endpoint takes none."
        raise InvalidRequest(
            [FieldError(name, message, "unknown_parameter") for name in request.args]
        )


def _loaded(schema: Schema, data: Mapping[str, Any], unknown: Any) -> dict[str, Any]:
    try:
        return dict(schema.load(data, unknown=unknown))
    except ValidationError as error:
        raise InvalidRequest(list(_flat(error.messages, ()))) from None


def _flat(messages: Any, place: tuple[str, ...]) -> Iterator[FieldError]:
    """One error for each field, in dotted form; the first thing that is wrong with it."""
    if isinstance(messages, dict):
        for name, content in messages.items():
            yield from _flat(content, place if name == "_schema" else (*place, shown(str(name))))
    else:
        yield FieldError(".".join(place), str(messages[0]), getattr(messages[0], "code", "invalid"))


def shown(name: str) -> str:
    """A name from a request, as it may stand in an answer: not without end."""
    return name if len(name) <= MAX_SHOWN_NAME else f"{name[:MAX_SHOWN_NAME]}..."
