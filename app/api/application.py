"""A Flask application with two lists of steps that run before and after every view.

`app.api.build` creates it and adds the steps. Flask has a dozen kinds of hooks for this purpose,
but it looks through all of them for every request, which makes small requests slower.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Request, Response
from flask.globals import app_ctx, request_ctx
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import BadHost
from werkzeug.routing import MapAdapter
from werkzeug.wsgi import ClosingIterator, get_host

Before = Callable[[Request, Any], object]
"""Gets the request and its `g`. Raises to refuse the request."""

After = Callable[[Request, Any, Response], object]

_WITHOUT_BODY = (204, 304)


class Answer(Response):
    """A response that is sent as it is.

    Werkzeug would check and rewrite its headers before sending it, which costs time and changes
    nothing in our answers.
    """

    is_refusal = False
    """Whether an answer with an error status is meant to be sent as it is; see `problems`."""

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        complete = isinstance(self.response, list) and "Content-Length" in self.headers
        if not complete or environ["REQUEST_METHOD"] == "HEAD" or self.status_code in _WITHOUT_BODY:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        body: Any = self.response
        return ClosingIterator(body, self.close) if self._on_close else body


class _NoSessions(SessionInterface):
    """The API has no sessions, so all requests share one empty session."""

    _empty = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._empty

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        """Does nothing."""


@functools.lru_cache(256)
def _host(name: str) -> str:
    """Encodes a host name as URLs need it. Raises `BadHost` if it is not valid."""
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BadHost from error


class Application(Flask):
    """Runs the steps of `before` and `after` in the order of the lists.

    Flask's own hooks still work, since libraries use them: they run between our steps and the view.
    """

    response_class = Answer
    session_interface = _NoSessions()

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.before: list[Before] = []
        self.after: list[After] = []

    def ensure_sync(self, func: Any) -> Any:
        """Returns `func`: no view is a coroutine, which Flask checks a dozen times per request."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Skips Flask's handling of SERVER_NAME and subdomains, which the API does not have."""
        if request is None:
            return None
        host, query = _host(get_host(request.environ)), request.environ["QUERY_STRING"]
        return MapAdapter(
            self.url_map,
            host,
            request.root_path,
            "",
            request.scheme,
            request.path,
            request.method,
            query,
        )

    def preprocess_request(self) -> Any:
        # Read once: `flask.request` and `flask.g` look up their objects again at every attribute.
        request = request_ctx.request
        context = app_ctx.g
        for step in self.before:
            step(request, context)
        return super().preprocess_request() if self.before_request_funcs else None

    def process_response(self, response: Response) -> Response:
        request = request_ctx.request
        context = app_ctx.g
        hooks = self.after_request_funcs
        if None in hooks or request.blueprint in hooks:
            response = super().process_response(response)
        for step in self.after:
            step(request, context, response)
        return response
