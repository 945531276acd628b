"""Refuses requests that another website made a browser send, and limits what a page may load.

Who is asking is decided before, in `app.api.access`.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from flask import Request, Response

from app.api.problems import Problem
from app.pages import sessions
from app.pages.blueprint import is_page, pages

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without any, browsers would send `Origin: null` with forms
    "Cross-Origin-Opener-Policy": "same-origin",
}

TOKEN = "csrf_token"  # noqa: S105  the name of a form's field


class Guard:
    """`check` runs before each page. With `local_only`, the pages are for this machine alone."""

    def __init__(self, *, local_only: bool):
        self._local_only = local_only

    def check(self, request: Request, _: Any) -> None:
        """Raises a 403 `Problem`."""
        if request.blueprint != pages.name:
            return
        # A website can make its own name point to this machine. The browser then takes our pages
        # for a part of that website, and lets it read them, but still sends its name.
        if self._local_only and not _is_this_machine(request.host):
            raise _refused(
                "This page is served under the names localhost and 127.0.0.1 only, because no API "
                "keys are configured."
            )
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
            raise _refused("This request came from another website.")
        if request.method == "POST":
            _check_form(request)


def _check_form(request: Request) -> None:
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise _refused("This request came from another website.")
    token = request.form.get(TOKEN, "")
    if not sessions.sessions().is_token(sessions.present(), token):
        raise _refused("This form is out of date. Go back, reload the page, and send it again.")


def protect(request: Request, _: Any, response: Response) -> None:
    """Adds the headers that every page has. No cache keeps a page: it belongs to a tenant."""
    if is_page(request.path):
        response.headers.extend(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")


def _refused(detail: str) -> Problem:
    return Problem(403, "forbidden", detail)


def _is_this_machine(host: str) -> bool:
    name = host.lower()
    try:
        name = urlsplit(f"//{name}").hostname or ""
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
