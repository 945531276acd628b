"""Bodies and query strings through marshmallow, with our rules: strict JSON, 400, every unknown name refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from flask import Request
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError
from webargs.flaskparser import FlaskParser

from app.api.json_body import MAX_SHOWN_NAME, read_json_object
from app.errors import FieldError, InvalidRequest

_CODES = (
    ("Missing data", "required"),
    ("Field may not be null", "invalid_type"),
    ("Not a valid", "invalid_type"),
    ("Invalid input", "invalid_type"),
    ("Must be one of", "invalid_choice"),
    ("Must be plain text", "invalid_text"),
    ("Must be in Unicode", "invalid_text"),
    ("Shorter than", "out_of_range"),
    ("Longer than", "out_of_range"),
    ("Length must be", "out_of_range"),
    ("Must be", "out_of_range"),
    ("This field is set by the service", "read_only"),
)
"""What marshmallow's messages begin with, and what they are called here."""

_UNKNOWN = "Unknown field"


class StrictParser(FlaskParser):
    """For `Blueprint.ARGUMENTS_PARSER`. Schemas are given to it as instances."""

    DEFAULT_VALIDATION_STATUS = 400
    DEFAULT_UNKNOWN_BY_LOCATION = {"json": RAISE, "query": RAISE, "headers": EXCLUDE}  # noqa: RUF012  webargs' own

    def __init__(self) -> None:
        super().__init__()
        self._of_nothing: dict[Schema, dict[str, Any]] = {}

    def parse(self, argmap: Any, req: Request | None = None, *, location: str | None = None, **options: Any) -> Any:
        """Where nothing was sent, as with most requests, what a schema makes of nothing is not made again."""
        request = req or self.get_default_request()
        if location not in ("query", "headers") or _is_sent(request, argmap, location):
            return super().parse(argmap, req, location=location, **options)
        if argmap not in self._of_nothing:
            self._of_nothing[argmap] = super().parse(argmap, req, location=location, **options)
        return dict(self._of_nothing[argmap])

    def load_json(self, req: Request, schema: Schema) -> Any:
        """The body's object; `{}` where there is none, and the schema's `body_optional` allows that."""
        if getattr(schema, "body_optional", False) and not req.content_length and not req.get_data(cache=True):
            return {}
        return read_json_object(req)

    def load_querystring(self, req: Request, schema: Schema) -> Any:
        twice = [name for name, values in req.args.lists() if len(values) > 1]
        if twice:
            raise InvalidRequest([FieldError(name, "This parameter stands twice.", "repeated") for name in twice])
        return req.args.to_dict()

    def handle_error(self, error: ValidationError, req: Request, schema: Schema, **_: Any) -> NoReturn:
        messages: Any = error.messages
        [(location, content)] = messages.items()
        kind = "parameter" if location == "query" else "field"
        raise InvalidRequest(list(_flat(content, (), kind)))


def _is_sent(request: Request, schema: Schema, location: str) -> bool:
    if location == "query":
        return bool(request.query_string)
    return any((field.data_key or name) in request.headers for name, field in schema.fields.items())


def _flat(messages: Any, place: tuple[str, ...], kind: str) -> Iterator[FieldError]:
    """One error for each `field` or `parameter`, in dotted form; the first thing that is wrong with it."""
    if isinstance(messages, dict):
        for name, content in messages.items():
            yield from _flat(content, place if name == "_schema" else (*place, shown(str(name))), kind)
    elif messages[0].startswith(_UNKNOWN):
        yield FieldError(".".join(place), messages[0].replace("field", kind, 1), f"unknown_{kind}")
    else:
        yield FieldError(".".join(place), messages[0], _code(messages[0]))


def shown(name: str) -> str:
    """A name from a request, as it may stand in an answer: not without end."""
    return name if len(name) <= MAX_SHOWN_NAME else f"{name[:MAX_SHOWN_NAME]}..."


def _code(message: str) -> str:
    return next((code for beginning, code in _CODES if message.startswith(beginning)), "invalid")
