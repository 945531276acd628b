"""An operation of the API: what its view reads, which is checked before it is called, and how it is
described.

Both come from one declaration beside the view. The description is OpenAPI's own, and nothing of it
is looked at again when a request comes.
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
    "RateLimit-Policy": {"description": "What the caller may have.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left of it.", "schema": {"type": "string"}},
}
_HEADERS: dict[int, dict[str, Any]] = {
    429: {"Retry-After": _RETRY_AFTER, **_LIMITS},
    503: {"Retry-After": _RETRY_AFTER},
}
_ANYWHERE = (
    "invalid_request",
    "rate_limited",
    "too_many_wrong_keys",
    "internal_error",
    "store_unavailable",
)


@dataclass(frozen=True, slots=True)
class Success:
    """An answer that is no problem: its status, and what its body holds."""

    status: int
    schema: type[Schema] | None = None
    example: Any = None
    examples: dict[str, Any] | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    description: str = ""

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
        return described


class ApiBlueprint(Blueprint):
    def operation(
        self,
        method: str,
        path: str,
        *successes: Success,
        reads: Sequence[Reader] = (),
        problems: Sequence[str] = (),
        parameters: Sequence[dict[str, Any]] = (),
    ) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
        """Adds a view, which is called with what it `reads`, in this order, and the parts of its
        path by name.

        `problems` are the codes of those that it may answer with, beside those that any view may.
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
    """The view as it is called for a request. `reads` is there for whoever needs the same before
    the view.
    """
    takes_query = any(isinstance(reader, Query) for reader in reads)

    def checked(**path: str) -> Response:
        asked = request_ctx.request
        if not takes_query:
            refuse_query(asked)
        return view(*[read(asked) for read in reads], **path)

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
        for status, shown in examples.problems((*problems, *_ANYWHERE)).items()
    }
