"""Declares an operation of the API in one place: its path, its checked inputs and its description.

`app.api.executions` and `app.api.targets` decorate their views with `ApiBlueprint.operation`. The
description is built once, for OpenAPI; a request does not use it.
"""

from __future__ import annotations

import http
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Response
from flask.globals import request_ctx
from flask_smorest import Blueprint
from marshmallow import Schema

from app.api import examples
from app.api.parsing import Query, Reader, refuse_query

PROBLEM = {"$ref": "#/components/schemas/Problem"}

_RETRY_AFTER = {
    "description": "Seconds to wait.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}
_LIMITS = {
    "RateLimit-Policy": {"description": "The limits of the caller.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left of the limits.", "schema": {"type": "string"}},
}
_HEADERS: dict[int, dict[str, Any]] = {
    429: {"Retry-After": _RETRY_AFTER, **_LIMITS},
    503: {"Retry-After": _RETRY_AFTER},
}
# The codes that every operation may answer with.
_COMMON_PROBLEMS = (
    "invalid_request",
    "rate_limited",
    "too_many_wrong_keys",
    "internal_error",
    "store_unavailable",
)


@dataclass(frozen=True, slots=True)
class Success:
    """A successful answer for the description: its status, headers and body.

    `stream` is an example of the same answer as Server-Sent Events.
    """

    status: int
    schema: type[Schema] | None = None
    example: Any = None
    examples: dict[str, Any] | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    stream: str = ""

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "description": self.description or http.HTTPStatus(self.status).phrase
        }
        if self.headers:
            described["headers"] = self.headers
        if self.schema:
            content: dict[str, Any] = {"schema": self.schema()}
            content |= {"example": self.example} if self.example is not None else {}
            content |= {"examples": self.examples} if self.examples is not None else {}
            described["content"] = {"application/json": content}
        if self.stream:
            # No type: some tools take the schema for that of the text, others for that of an event.
            schema = {"description": "Server-Sent Events, as the HTML standard defines them."}
            streamed = {"schema": schema, "example": self.stream}
            described.setdefault("content", {})["text/event-stream"] = streamed
        return described


class ApiBlueprint(Blueprint):
    """flask-smorest's blueprint with one decorator, which validates and describes in one step."""

    def operation(
        self,
        method: str,
        path: str,
        *successes: Success,
        reads: Sequence[Reader] = (),
        problems: Sequence[str] = (),
        parameters: Sequence[dict[str, Any]] = (),
    ) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
        """Adds a view under a path.

        The view is called with the result of each reader in `reads`, in this order, and with the
        variables of its path as keywords. `problems` are the codes of the problems that the view
        may answer with, in addition to those of every view.
        """

        def add(view: Callable[..., Response]) -> Callable[..., Response]:
            answers = {success.status: success.describe() for success in successes} | _described(
                problems
            )
            operation: dict[str, Any] = {"operationId": view.__name__, "responses": answers}
            for reader in reads:
                reader.describe(operation)
            checked = _checked(view, tuple(reads))
            checked._apidoc = {"manual_doc": operation}  # type: ignore[attr-defined]  # where flask-smorest looks for it
            self.add_url_rule(
                path, view.__name__, checked, methods=[method], parameters=list(parameters)
            )
            return view

        return add


def _checked(view: Callable[..., Response], reads: tuple[Reader, ...]) -> Callable[..., Response]:
    """Wraps a view so that its readers run first. `earlier_start` uses the attribute `reads`."""
    takes_query = any(isinstance(reader, Query) for reader in reads)

    def checked(**path: str) -> Response:
        request = request_ctx.request  # flask.request looks it up again at every attribute
        if not takes_query:
            refuse_query(request)
        return view(*[read(request) for read in reads], **path)

    checked.__doc__, checked.__name__ = view.__doc__, view.__name__
    checked.reads = reads  # type: ignore[attr-defined]
    checked.needs_scope = getattr(view, "needs_scope", None)  # type: ignore[attr-defined]
    return checked


def _described(problems: Sequence[str]) -> dict[int, dict[str, Any]]:
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": PROBLEM, "examples": shown}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status, shown in examples.problems((*problems, *_COMMON_PROBLEMS)).items()
    }
