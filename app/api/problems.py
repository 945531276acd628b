"""Turns every error into an `application/problem+json` answer (RFC 9457).

`app.api.build` registers the handlers here; Flask calls them for whatever a view or a step raises.
The one function `problem` renders all of these answers, so all have the same fields.
"""

from __future__ import annotations

import http
import json
from collections.abc import Sequence
from typing import Any

import structlog
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import BadHost, HTTPException, SecurityError, default_exceptions

from app.api import quotas
from app.api.application import Answer
from app.domain.errors import (
    AlreadyEnded,
    FieldError,
    InvalidRequest,
    KeyReused,
    NotFound,
    NotRetryable,
    QueueFull,
    ServiceError,
    StoreRefused,
    StoreUnavailable,
    TooManyLarge,
    TooManyUnfinished,
    TooMuchRetried,
)

log = structlog.get_logger(__name__)

MAX_ERRORS = 100
"""How many field errors an answer lists. Without a limit, a small body with many wrong fields would
get a very large answer, and nobody reads more.
"""

CONTENT_TYPE = "application/problem+json"

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    500: "internal_error",
}

_DETAILS = {
    404: "There is no endpoint with this path.",
    412: "The current version does not match If-Match or If-Unmodified-Since.",
    413: "The body is larger than {MAX_CONTENT_LENGTH} bytes.",
    429: "Too many requests. RateLimit-Policy states the limit, Retry-After when to try again.",
    500: "Internal error. Its cause is in the service's log, under this request_id.",
}


_SERVICE_ERRORS: dict[type[ServiceError], tuple[int, str]] = {
    InvalidRequest: (400, "invalid_request"),
    AlreadyEnded: (400, "already_ended"),
    NotRetryable: (400, "not_retryable"),
    NotFound: (404, "not_found"),
    KeyReused: (422, "idempotency_key_reused"),
    TooManyUnfinished: (429, "too_many_unfinished"),
    TooMuchRetried: (429, "too_much_retried"),
    QueueFull: (503, "queue_full"),
    TooManyLarge: (503, "too_many_large"),
}


class Problem(Exception):
    """A refusal that the HTTP side raises itself; see `app.domain.errors` for all others."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: dict[str, str] | None = None,
    ):
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = headers

    @classmethod
    def of_body(cls, code: str, detail: str) -> Problem:
        """A 400 about the body as a whole, which has one entry in `errors` with an empty field."""
        return cls(400, code, detail, [FieldError("", detail, code)])


def register(app: Flask) -> None:
    """Makes every exception from a view or a step end as a `problem`."""
    app.register_error_handler(Problem, _render_problem)
    app.register_error_handler(ServiceError, render_service_error)
    app.register_error_handler(Exception, _render_bug)
    app.after_request(_no_other_refusal)


def problem(
    status: int,
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
) -> Response:
    """Builds and logs a refusal. `more` adds members to the body beside those of every problem."""
    body: dict[str, Any] = {
        "type": f"urn:problem:{code.replace('_', '-')}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.path,
        "request_id": g.get("request_id", ""),
        "code": code,
        **(more or {}),
    }
    if errors:
        body["errors"] = [
            {"field": error.field, "message": error.message, "code": error.code} for error in errors
        ]
    # No field, message or header: they may quote what the caller sent, which may be a secret.
    log.info("request_refused", status=status, code=code, method=request.method, path=request.path)
    answer = Answer(json.dumps(body), status, headers, content_type=CONTENT_TYPE)
    answer.is_refusal = True
    return answer


def render_http_error(error: HTTPException) -> Response:
    """Turns an error of Werkzeug's into a problem. Keeps its headers, for example `Allow`."""
    if error.response is not None or error.code is None or error.code < 400:
        return error.get_response()  # type: ignore[return-value]  # a redirect, or made by hand
    if isinstance(error, (BadHost, SecurityError)):
        return problem(400, "invalid_host", "The Host header is not a valid host name.")
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    code = _CODES.get(
        error.code, error.name.lower().replace(" ", "_").replace("-", "_").replace("'", "")
    )
    known = _DETAILS.get(error.code, "").format_map(current_app.config)
    return problem(error.code, code, known or error.description or error.name, headers=headers)


def _no_other_refusal(response: Response) -> Response:
    """Replaces error answers that no handler made.

    Werkzeug's `make_conditional` turns an answer into a 412 in place, and keeps its body.
    """
    if response.status_code < 400 or getattr(response, "is_refusal", False):
        return response
    response.close()
    return render_http_error(default_exceptions[response.status_code]())


def _render_problem(error: Problem) -> Response:
    return problem(error.status, error.code, error.detail, error.errors, error.headers)


def render_service_error(error: ServiceError) -> Response:
    if isinstance(error, StoreRefused):
        # Unlike an outage, this needs a person: a bug, or another program's data under our keys.
        log.error("store_refused", method=request.method, path=request.path, exc_info=error)
    if isinstance(error, TooManyUnfinished):
        quotas.note_unfinished(error.allowed, error.allowed)
    if isinstance(error, StoreUnavailable):
        status, code = 503, error.code
    elif type(error) in _SERVICE_ERRORS:
        status, code = _SERVICE_ERRORS[type(error)]
    else:
        return _render_bug(error)
    errors = error.errors[:MAX_ERRORS] if isinstance(error, InvalidRequest) else ()
    wait_seconds = getattr(error, "retry_after_seconds", None)
    headers = None if wait_seconds is None else {"Retry-After": str(wait_seconds)}
    return problem(status, code, str(error), errors, headers)


def _render_bug(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return render_http_error(error)
    log.error("request_crashed", method=request.method, path=request.path, exc_info=error)
    return problem(500, _CODES[500], _DETAILS[500])
