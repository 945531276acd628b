"""Tells browsers what they may do with answers: who may read them, and that none is kept.

`app.api.build` registers it. With CORS_ORIGINS, pages of these origins may call the API
(Flask-CORS). A preflight has no key, so it is answered before keys and limits are looked at.
Credentials are not allowed: callers send a key in a header, never a cookie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from flask import Request, Response
from flask_cors import CORS
from werkzeug.exceptions import HTTPException

from app.api.application import Application

SENT_HEADERS = (
    *("Authorization", "X-API-Key", "Content-Type", "Idempotency-Key"),
    *("If-None-Match", "Last-Event-ID", "Prefer", "X-Request-ID", "traceparent"),
)
"""The headers that a page may send."""

READ_HEADERS = (
    *("Location", "Retry-After", "ETag", "RateLimit", "RateLimit-Policy"),
    *("Idempotency-Replayed", "Preference-Applied", "X-Request-ID", "WWW-Authenticate"),
)
"""The headers of an answer that a page may read, beside those that it always may."""

PREFLIGHT_SECONDS = 600
"""How long a browser may remember the answer to a preflight."""

_METHOD = "Access-Control-Request-Method"
_PRIVATE = ("/api/", "/metrics")
_READABLE = r"/(api/.*|openapi\.json|healthz|readyz)"
"""The paths that a page may read, as Flask-CORS takes them."""


def register(app: Application, origins: Sequence[str]) -> None:
    """Adds the headers to every answer, also to refusals."""
    app.after.append(_keep_nothing)
    if not origins:
        return
    # As patterns of the whole text: Flask-CORS takes some texts, such as an IPv6 address, for
    # patterns.
    exact = [re.compile(rf"{re.escape(origin)}\Z") for origin in origins]
    everybody = "*" in origins
    CORS(
        app,
        resources={_READABLE: {}},
        origins="*" if everybody else exact,
        methods=["GET", "HEAD", "POST"],
        allow_headers=list(SENT_HEADERS),
        expose_headers=list(READ_HEADERS),
        max_age=PREFLIGHT_SECONDS,
        send_wildcard=everybody,
    )
    app.before.append(_answer_preflight)
    if not everybody:
        app.after.append(_vary)


def _answer_preflight(request: Request, _: Any) -> None:
    """Ends a preflight here. Flask-CORS adds its headers if the origin is allowed."""
    asked = request.headers
    if request.method == "OPTIONS" and "Origin" in asked and _METHOD in asked:
        raise HTTPException(response=Response(status=204))


def _vary(request: Request, _: Any, response: Response) -> None:
    """Caches keep an answer for one origin only. Flask-CORS says so to allowed origins alone, so a
    cache would give a page what it has kept from somebody else, without the permission.
    """
    if re.fullmatch(_READABLE, request.path):
        response.vary.add("Origin")


def _keep_nothing(request: Request, _: Any, response: Response) -> None:
    """Caches may keep nothing that belongs to a tenant."""
    if request.path.startswith(_PRIVATE):
        response.headers.setdefault("Cache-Control", "no-store")
