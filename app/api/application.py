"""Flask, with one row of steps that every request passes before and after its view, in place of a
dozen hooks.
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
"""Gets the request and the request's own `g`. Refuses by raising."""

After = Callable[[Request, Any, Response], object]

_WITHOUT_BODY = (204, 304)


class Answer(Response):
    """An answer that is complete as it is made, so Werkzeug does not go through its headers once
    more.
    """

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        complete = isinstance(self.response, list) and "Content-Length" in self.headers
        if not complete or environ["REQUEST_METHOD"] == "HEAD" or self.status_code in _WITHOUT_BODY:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        body: Any = self.response
        return ClosingIterator(body, self.close) if self._on_close else body


class _NoSessions(SessionInterface):
    """The API has none, so one empty session serves every request."""

    _empty = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._empty

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        """There is nothing to save."""


@functools.lru_cache(256)
def _host(name: str) -> str:
    """As it stands in addresses. Refuses what is none."""
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BadHost from error


class Application(Flask):
    """Steps stand in `before` and `after` in the order in which they are taken.

    Hooks of libraries work as they do elsewhere, but within ours: where there are none, nothing
    looks for them.
    """

    response_class = Answer
    session_interface = _NoSessions()

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.before: list[Before] = []
        self.after: list[After] = []

    def ensure_sync(self, func: Any) -> Any:
        """No view and no hook is a coroutine, so none is looked at for it, a dozen times a request."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """The API is served under any name, and has no subdomains: Flask would work both out twice
        a request.
        """
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
        asked, context = request_ctx.request, app_ctx.g
        for step in self.before:
            step(asked, context)
        return super().preprocess_request() if self.before_request_funcs else None

    def process_response(self, response: Response) -> Response:
        asked, context, hooks = request_ctx.request, app_ctx.g, self.after_request_funcs
        if None in hooks or asked.blueprint in hooks:
            response = super().process_response(response)
        for step in self.after:
            step(asked, context, response)
        return response
