"""Adds API keys to OpenAPI's description: how to send one, which scope an operation needs.

`app.api.build` passes the plugin to apispec. The scopes come from `@needs` of the views.
"""

from __future__ import annotations

from typing import Any

from apispec import APISpec, BasePlugin
from flask import Flask
from werkzeug.routing import Rule

from app.api import examples
from app.api.access import OPEN, scope_of

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

_REFUSALS = {
    401: (
        "The API key is missing or invalid.",
        "unauthorized",
        "WWW-Authenticate",
        {"type": "string"},
    ),
    403: (
        "The API key does not have the required scope.",
        "forbidden",
        "WWW-Authenticate",
        {"type": "string"},
    ),
    429: (
        "Too many invalid API keys came from this address.",
        "too_many_wrong_keys",
        "Retry-After",
        {"type": "integer", "description": "Seconds."},
    ),
}


class SecurityPlugin(BasePlugin):
    """Adds the scope and the refusals to each operation that is not open. apispec calls it.

    A key is described as optional if the service does not require keys (`required` is false).
    """

    def __init__(self, app: Flask, required: bool):
        self._app, self._required = app, required

    def init_spec(self, spec: APISpec) -> None:
        for name, scheme in _SCHEMES.items():
            spec.components.security_scheme(name, scheme)

    def operation_helper(
        self, path: str | None = None, operations: dict[str, Any] | None = None, **more: Any
    ) -> None:
        rule: Rule = more["rule"]
        if rule.rule in OPEN or operations is None:
            return
        scope = scope_of(self._app.view_functions[rule.endpoint])
        for operation in operations.values():
            operation["security"] = [
                *([] if self._required else [{}]),
                *({name: []} for name in _SCHEMES),
            ]
            operation["description"] = (
                f"{operation.get('description', '')}\n\nScope: `{scope}`.".strip()
            )
            for status, refusal in _REFUSALS.items():
                if not {status, str(status)} & operation["responses"].keys():
                    operation["responses"][str(status)] = _response(status, *refusal)


def _response(
    status: int, description: str, code: str, header: str, schema: dict[str, Any]
) -> dict[str, Any]:
    example = examples.problem(code)
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
    return {
        "description": description,
        "headers": {header: {"schema": schema}},
        "content": {"application/problem+json": content},
    }
