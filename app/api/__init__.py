"""The HTTP side: blueprints, schemas, problems. Knows the service; knows neither Redis nor RQ."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import structlog
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import NotFound

from app import tracing
from app.api import access, docs, executions, limits, operations, problems, targets, traces
from app.api.openapi import ApiDescription
from app.api.security import SecurityPlugin
from app.errors import FieldError, InvalidRequest
from app.executions import identifiers
from app.executions.service import ExecutionService
from app.keys.authenticator import Authenticator
from app.settings import Settings

_STRICT = frozenset({executions.blueprint.name, targets.blueprint.name})
"""The blueprints whose views refuse what they do not know."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")


class Application(Flask):
    def ensure_sync(self, func: Any) -> Any:
        """No view and no hook is a coroutine, so none is looked at for it, a dozen times a request."""
        return func


def build(settings: Settings, service: ExecutionService, ring: Authenticator) -> Flask:
    """A Flask application around the service, open to those whom the ring knows."""
    app = Application(__name__, static_folder=None)
    app.extensions["executions"] = service
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_content_length,
        MAX_TEXT_LENGTH=settings.max_text_length,
        API_TITLE="Async Execution API",
        API_VERSION="1.0.0",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH="openapi.json",
    )
    app.url_map.merge_slashes = False
    operations.register(app, settings, service.catalog)
    app.before_request(_begin)
    traces.register(app, tracing.connect(settings))
    access.register(app, ring, metrics_open=settings.metrics == "open")
    app.before_request(_refuse_unknown_query)
    app.after_request(_give_request_id)
    limits.register(app, settings, service, executions.earlier_start)
    problems.register(app)
    described = ApiDescription(app, spec_kwargs={"extra_plugins": [SecurityPlugin(app, ring.required)]})
    described.register_blueprint(executions.blueprint)
    described.register_blueprint(targets.blueprint)
    app.extensions["takes_query"] = {name for name, view in app.view_functions.items() if _takes_query(view)}
    targets.register(app, service.catalog)
    docs.register(app)
    app.add_url_rule("/healthz", view_func=_healthz)
    return app


def _begin() -> None:
    """The caller's own `X-Request-ID` where it is a plain one, else a new one; every log line carries it.

    `//api/...` is not this API; Werkzeug has made one slash of it by the time it looks for a route.
    """
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    execution_id = (request.view_args or {}).get("execution_id", "")
    if identifiers.PATTERN.fullmatch(execution_id):
        structlog.contextvars.bind_contextvars(execution_id=execution_id)
    if request.environ["PATH_INFO"].startswith("//"):
        raise NotFound
    if "HTTP_HOST" not in request.environ and request.environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise problems.Problem(400, "missing_host", "An HTTP/1.1 request must have a Host header.")


def _takes_query(view: Any) -> bool:
    """Whether a view's description, from which it is checked too, has parameters in the query."""
    arguments = getattr(view, "_apidoc", {}).get("arguments", {}).get("parameters", [])
    return any(each.get("in") == "query" for each in arguments)


def _refuse_unknown_query() -> None:
    """A view that takes parameters in the query refuses unknown ones itself; here are those that take none."""
    if (
        request.query_string
        and request.args
        and request.blueprint in _STRICT
        and request.endpoint not in current_app.extensions["takes_query"]
    ):
        message = "Unknown parameter. This endpoint takes none."
        raise InvalidRequest([FieldError(name, message, "unknown_parameter") for name in request.args])


def _give_request_id(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.get("request_id", "")
    return response


def _healthz() -> Response:
    """This process lives. It says nothing about the store."""
    return Response(json.dumps({"status": "ok"}), content_type="application/json")
