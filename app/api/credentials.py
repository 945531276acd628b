"""The key that a request presents: where it may stand, and how it is refused. Nothing here knows a
right one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.api.problems import Problem
from app.domain.key import PREFIX

_IN_QUERY = re.compile(rf"(?:^|&)(?:x[-_])?(?:api[-_]?key|access_token)=|{PREFIX}", re.IGNORECASE)


def presented(environ: Mapping[str, Any]) -> bytes:
    """The key of `Authorization: Bearer` or `X-API-Key`, as the bytes that came.

    Raises a `Problem`: 401 where there is none, where the scheme is another or where it stands in
    the address; 400 where more than one is sent. (The web server joins headers that are sent twice
    with a comma, which is in no key.)
    """
    if environ["QUERY_STRING"] and _IN_QUERY.search(environ["QUERY_STRING"]):
        raise unauthorized(
            "A key must not stand in an address, as addresses are logged. Send it in a header."
        )
    bearer, api_key = environ.get("HTTP_AUTHORIZATION"), environ.get("HTTP_X_API_KEY")
    if bearer is None and api_key is None:
        raise unauthorized("A key is needed: Authorization: Bearer KEY, or X-API-Key: KEY.")
    if "," in (bearer or "") or "," in (api_key or ""):
        raise _ambiguous()
    sent = {_token(bearer)} if bearer is not None else set()
    sent |= {api_key} if api_key is not None else set()
    if len(sent) > 1:
        raise _ambiguous()
    return str(sent.pop()).encode("latin-1")  # WSGI's way to hand over bytes


def unauthorized(detail: str, error: str = "") -> Problem:
    challenge = 'Bearer realm="executions"' + (f', error="{error}"' if error else "")
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def too_many_wrong_keys(wait_seconds: int) -> Problem:
    detail = "Too many wrong keys came from this address."
    return Problem(429, "too_many_wrong_keys", detail, headers={"Retry-After": str(wait_seconds)})


def _ambiguous() -> Problem:
    return Problem(400, "ambiguous_key", "More than one key was sent. Send one, in one header.")


def _token(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthorized("The header must be Authorization: Bearer KEY.")
    return token
