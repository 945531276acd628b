"""What all blueprints of the API have in common: strict parsing, and answers that are described, not processed."""

from __future__ import annotations

from typing import Any

from flask_smorest import Blueprint

from app.api import examples
from app.api.parsing import StrictParser
from app.api.schemas import ProblemSchema

_RETRY_AFTER = {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 1}}
_LIMITS = {
    "RateLimit-Policy": {"description": "What the caller may have.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left of it.", "schema": {"type": "string"}},
}
_HEADERS: dict[int, dict[str, Any]] = {
    429: {"Retry-After": _RETRY_AFTER, **_LIMITS},
    503: {"Retry-After": _RETRY_AFTER},
}
_ANYWHERE = ("invalid_request", "rate_limited", "too_many_wrong_keys", "internal_error", "store_unavailable")


class ApiBlueprint(Blueprint):
    ARGUMENTS_PARSER = StrictParser()

    def documented(self, *problems: str, etag: bool = False, **success: Any) -> Any:
        """What a view answers, for OpenAPI: one success, and problems by their codes,
        beside those that any view may answer.

        flask-smorest wraps a view once for each answer it documents, though only the description is wanted:
        the wrappers are taken off again, as every request would pay for them.
        """

        def decorate(view: Any) -> Any:
            documented = self.doc(operationId=view.__name__)(view)
            documented = self.alt_response(**success, success=True)(documented)
            if etag:
                documented = self.alt_response(304, description="It has not changed.", success=True)(documented)
            conditional = ("precondition_failed",) if etag else ()
            for status, shown in examples.problems((*problems, *conditional, *_ANYWHERE)).items():
                documented = self.alt_response(
                    status,
                    schema=ProblemSchema,
                    content_type="application/problem+json",
                    examples=shown,
                    headers=_HEADERS.get(status),
                )(documented)
            view._apidoc = documented._apidoc
            return view

        return decorate
