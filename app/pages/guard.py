"""Refuses requests that another website made a browser send, and limits what a page may load.

Under which name a request may come is decided before, in `app.api.hosts`, and who is asking in
`app.api.access`.
"""

from __future__ import annotations

from typing import Any

from flask import Request, Response

from app.api.problems import Problem
from app.pages import sessions
from app.pages.blueprint import is_page

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without any, browsers would send `Origin: null` with forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_FOREIGN = (
    "This request came from another website, or a proxy has changed its Host header, which must "
    "be passed on as it is."
)

MOST_FIELDS = 1000
"""As many as Werkzeug allows in the other kind of forms."""

_URL_ENCODED = "application/x-www-form-urlencoded"

TOKEN = "csrf_token"  # noqa: S105  the name of a form's field


def check(request: Request, _: Any) -> None:
    """Runs before every request, and looks at those of pages. Raises a 403 `Problem`."""
    if not is_page(request.path) or request.url_rule is None:
        return  # without a rule, Flask answers 404 or 405 after this step
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
        raise _refused(_FOREIGN)
    if _comes_from_another_site(request):
        raise _refused(_FOREIGN)
    if request.method == "POST":
        _check_form(request)


def _comes_from_another_site(request: Request) -> bool:
    """Whether the browser says so, and the request is more than a link to a page of ours."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") in ("same-origin", "none"):
        return False
    is_link = request.headers.get("Sec-Fetch-Mode") == "navigate"
    return not (is_link and request.method in ("GET", "HEAD"))


def _check_form(request: Request) -> None:
    # Werkzeug bounds the parts of a form, but not the fields of a URL-encoded one: half a million
    # of them, in 1 MiB, would hold up this process for half a second, also at the login.
    if request.get_data().count(b"&") > MOST_FIELDS and request.mimetype == _URL_ENCODED:
        raise Problem(413, "body_too_large", f"The form has more than {MOST_FIELDS} fields.")
    token = request.form.get(TOKEN, "")
    if not sessions.sessions().is_token(sessions.present(), token):
        raise _refused("This form is out of date. Go back, reload the page, and send it again.")


def protect(response: Response) -> None:
    """Adds the headers that every page has. No cache keeps a page: it belongs to a tenant."""
    response.headers.extend(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


def _refused(detail: str) -> Problem:
    return Problem(403, "forbidden", detail)
