"""The login, where API keys are required: takes a key, and begins a session with it."""

from __future__ import annotations

from typing import cast

from flask import Response, current_app, redirect, request
from werkzeug.exceptions import NotFound

from app.api.access import Gate, needs, refuse_scope
from app.api.application import Answer
from app.api.problems import Problem
from app.domain.key import Scope, digest_of
from app.pages import sessions
from app.pages.blueprint import pages
from app.pages.rendering import page

LOGIN, LOGOUT = "/ui/login", "/ui/logout"

MOST_NEXT = 4000
"""The length of the longest path that the login leads to. It becomes a header."""


@pages.get(LOGIN)
def show_login() -> Response:
    if not _gate().required or _has_session():
        return _to(_next())
    return page("login.html", next=_next(), problem=None)


@pages.post(LOGIN)
def log_in() -> Response:
    digest = digest_of(request.form.get("key", "").strip().encode())
    try:
        caller = _gate().owner(digest, request.environ)
        if Scope.READ not in caller.scopes:
            raise refuse_scope(Scope.READ)
    except Problem as problem:
        answer = page("login.html", problem.status, next=_next(), problem=problem.detail)
        answer.headers.extend(problem.headers or {})
        return answer
    response = _to(_next())
    # No header of a proxy is trusted; a browser itself says in `Origin` whether it uses https.
    secure = request.is_secure or request.headers.get("Origin", "").startswith("https://")
    sessions.sessions().begin(response, digest, secure=secure)
    return response


@pages.post(LOGOUT)
def log_out() -> Response:
    response = _to(LOGIN)
    sessions.end(response)
    return response


@pages.get("/ui")
@pages.get("/ui/")
@needs(Scope.READ)
def show_first_page() -> Response:
    return _to("/")


@pages.get("/ui/<path:rest>")
@needs(Scope.READ)
def no_such_page(rest: str) -> Answer:
    """A page that does not exist. Without this, it would ask for a key in a header."""
    raise NotFound


def _has_session() -> bool:
    session = sessions.present()
    try:
        return session is not None and bool(_gate().owner(session.digest, request.environ))
    except Problem:
        return False


def _next() -> str:
    """Where to go after the login: a path of this service, never another website."""
    path = request.values.get("next", "")
    inside = path.startswith("/") and path.isprintable() and path[1:2] not in ("/", "\\")
    return path if inside and len(path) <= MOST_NEXT else "/"


def _to(path: str) -> Response:
    return cast(Response, redirect(path, 303, Response=Answer))


def _gate() -> Gate:
    return cast(Gate, current_app.extensions["gate"])
