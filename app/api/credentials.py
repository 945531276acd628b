"""Reads the API key from a request's headers, and builds the refusals for missing or wrong keys.

`app.api.access` calls it for every request. Whether a key is valid is decided there, not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.api.problems import Problem
from app.domain.key import PREFIX

# The usual names of a key parameter, and the beginning of our own keys under any name.
_IN_QUERY = re.compile(rf"(?:^|&)(?:x[-_])?(?:api[-_]?key|access_token)=|{PREFIX}", re.IGNORECASE)


def presented(environ: Mapping[str, Any]) -> bytes:
    """Returns the key from `Authorization: Bearer` or `X-API-Key`, as the bytes that were sent.

    Raises a `Problem`: 401 if there is no key, if the scheme is not Bearer, or if a key is in the
    URL; 400 if more than one key is sent.
    """
    if environ["QUERY_STRING"] and _IN_QUERY.search(environ["QUERY_STRING"]):
        raise unauthorized(
            "Do not put an API key in the URL, because URLs are logged. Send it in a header."
        )
    bearer = environ.get("HTTP_AUTHORIZATION")
    api_key = environ.get("HTTP_X_API_KEY")
    if bearer is None and api_key is None:
        raise unauthorized(
            "An API key is required. Send Authorization: Bearer KEY, or X-API-Key: KEY."
        )
    # No key contains a comma; the web server joins the values of a repeated header with one.
    if "," in (bearer or "") or "," in (api_key or ""):
        raise _ambiguous()
    sent = {_token(bearer)} if bearer is not None else set()
    sent |= {api_key} if api_key is not None else set()
    if len(sent) > 1:
        raise _ambiguous()
    return str(sent.pop()).encode("latin-1")  # WSGI's way to hand over bytes


def unauthorized(detail: str, error: str = "") -> Problem:
    """A 401. `error` is the code of RFC 6750, which is left out if no key was sent."""
    challenge = 'Bearer realm="executions"' + (f', error="{error}"' if error else "")
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def invalid_key() -> Problem:
    """A 401 for a key that is unknown or revoked."""
    return unauthorized("Invalid API key.", error="invalid_token")


def too_many_invalid_keys(wait_seconds: int) -> Problem:
    detail = "Too many invalid API keys from this address. Try again later."
    return Problem(429, "too_many_wrong_keys", detail, headers={"Retry-After": str(wait_seconds)})


def _ambiguous() -> Problem:
    return Problem(
        400, "ambiguous_key", "More than one API key was sent. Send one key, in one header."
    )


def _token(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthorized("The Authorization header must have the form: Bearer KEY.")
    return token
