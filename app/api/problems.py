"""Every 4xx and 5xx as `application/problem+json` (RFC 9457). One function renders them all."""

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
"""More are not told: nobody reads them, and a small body could ask for a very large answer."""

_CONTENT_TYPE = "application/problem+json"

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    500: "internal_error",
}

_DETAILS = {
    404: "There is nothing at this address.",
    412: "The version differs from the one in If-Match or If-Unmodified-Since.",
    413: "A body may have {MAX_CONTENT_LENGTH} bytes at most.",
    429: "Too many requests: RateLimit-Policy says how many are allowed.",
    500: "Something went wrong on our side. The request_id finds it in the log.",
}


class Problem(Exception):
    """An answer that is a problem, raised by the HTTP side itself."""

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
        """400: the body as a whole is wrong."""
        return cls(400, code, detail, [FieldError("", detail, code)])


def register(app: Flask) -> None:
    """Lets every exception of every view end in `problem`."""
    app.register_error_handler(Problem, _render_problem)
    app.register_error_handler(ServiceError, _render_service_error)
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
    """The one form of a refusal; `more` are members of its own. It is logged, without what was
    sent.
    """
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
            {"field": each.field, "message": each.message, "code": each.code} for each in errors
        ]
    log.info("request_refused", status=status, code=code, method=request.method, path=request.path)
    return Answer(json.dumps(body), status, headers, content_type=_CONTENT_TYPE)


def render_http_error(error: HTTPException) -> Response:
    """Werkzeug's own errors. Headers that belong to one, such as `Allow`, stay."""
    if error.response is not None or error.code is None or error.code < 400:
        return error.get_response()  # type: ignore[return-value]  # a redirect, or made by hand
    if isinstance(error, (BadHost, SecurityError)):
        return problem(400, "invalid_host", "The Host header does not name a host.")
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    code = _CODES.get(
        error.code, error.name.lower().replace(" ", "_").replace("-", "_").replace("'", "")
    )
    known = _DETAILS.get(error.code, "").format_map(current_app.config)
    return problem(error.code, code, known or error.description or error.name, headers=headers)


def _no_other_refusal(response: Response) -> Response:
    """A view that heeds `If-Match` makes its answer a 412, with the body still in it."""
    if response.status_code < 400 or response.mimetype == _CONTENT_TYPE:
        return response
    response.close()
    return render_http_error(default_exceptions[response.status_code]())


def _render_problem(error: Problem) -> Response:
    return problem(error.status, error.code, error.detail, error.errors, error.headers)


def _render_service_error(error: ServiceError) -> Response:
    detail = str(error)
    if isinstance(error, NotFound):
        return problem(404, "not_found", detail)
    if isinstance(error, InvalidRequest):
        return problem(400, "invalid_request", detail, error.errors[:MAX_ERRORS])
    if isinstance(error, KeyReused):
        return problem(422, "idempotency_key_reused", detail)
    if isinstance(error, AlreadyEnded):
        return problem(400, "already_ended", detail)
    if isinstance(error, TooManyUnfinished):
        quotas.note_unfinished(error.allowed, error.allowed)
        return problem(
            429,
            "too_many_unfinished",
            detail,
            headers={"Retry-After": str(error.retry_after_seconds)},
        )
    if isinstance(error, TooMuchRetried):
        return problem(
            429, "too_much_retried", detail, headers={"Retry-After": str(error.retry_after_seconds)}
        )
    if isinstance(error, QueueFull):
        return problem(
            503, "queue_full", detail, headers={"Retry-After": str(error.retry_after_seconds)}
        )
    if isinstance(error, TooManyLarge):
        return problem(
            503, "too_many_large", detail, headers={"Retry-After": str(error.retry_after_seconds)}
        )
    if isinstance(error, NotRetryable):
        return problem(400, "not_retryable", detail)
    if isinstance(error, StoreRefused):
        log.error("store_refused", method=request.method, path=request.path, exc_info=error)
    if isinstance(error, StoreUnavailable):
        return problem(
            503, error.code, detail, headers={"Retry-After": str(error.retry_after_seconds)}
        )
    return _render_bug(error)


def _render_bug(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return render_http_error(error)
    log.error("request_crashed", method=request.method, path=request.path, exc_info=error)
    return problem(500, _CODES[500], _DETAILS[500])
