"""The HTTP side of the service; `build` puts the Flask application together for `create_app`.

It calls the services, and knows nothing of RQ. Every request passes the steps that `build` adds to
`app.before` (request id, traces, access), then its view, then the steps of `app.after`.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from flask import Request, Response
from werkzeug.exceptions import NotFound

from app.api import (
    access,
    browsers,
    deliveries,
    docs,
    executions,
    hosts,
    limits,
    operations,
    problems,
    quotas,
    streams,
    targets,
    traces,
    webhook_description,
)
from app.api.answer_schemas import ProblemSchema
from app.api.application import Answer, Application
from app.api.openapi import ApiDescription
from app.api.security import SecurityPlugin
from app.domain import identifiers
from app.domain.version import VERSION
from app.services.authentication import Authenticator
from app.services.executions import ExecutionService
from app.setting_checks import origins_of
from app.settings import Settings
from app.telemetry import logs, tracing

_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")


def build(
    settings: Settings, service: ExecutionService, authenticator: Authenticator
) -> Application:
    """Builds the application. The order of the calls is the order of the steps of a request."""
    app = Application(__name__, static_folder=None)
    app.extensions["executions"] = service
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_content_length,
        MAX_TEXT_LENGTH=settings.max_text_length,
        API_TITLE="Async Execution API",
        API_VERSION=VERSION,
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH="openapi.json",
    )
    app.url_map.merge_slashes = False  # no redirects from `/api//v1`: each path has one spelling
    operations.register(app, settings, service.catalog)
    app.before.append(_begin)
    hosts.register(app, local_only=not settings.may_be_reached)
    traces.register(app, tracing.connect(settings))
    browsers.register(app, origins_of(settings.cors_origins))
    access.register(app, authenticator, metrics_open=settings.metrics == "open")
    limits.register(app, settings, service, executions.earlier_start)
    app.after[:0] = [quotas.tell, _give_request_id]  # first; the others measure
    problems.register(app)
    described = ApiDescription(
        app, spec_kwargs={"extra_plugins": [SecurityPlugin(app, authenticator.required)]}
    )
    described.spec.components.schema("Problem", schema=ProblemSchema())
    webhook_description.describe(described.spec)
    described.register_blueprint(executions.blueprint)
    described.register_blueprint(deliveries.blueprint)
    described.register_blueprint(streams.blueprint)
    described.register_blueprint(targets.blueprint)
    streams.register(app, service)
    targets.register(app, service.catalog)
    docs.register(app)
    app.add_url_rule("/healthz", view_func=_healthz)
    return app


def _begin(request: Request, context: Any) -> None:
    """Sets the request id, which every log line and the answer carry.

    It is the caller's `X-Request-ID` if that has plain characters only, otherwise a new one.
    """
    environ = request.environ
    given = environ.get("HTTP_X_REQUEST_ID")
    context.request_id = given if given and _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()
    logged = {"request_id": context.request_id}
    execution_id = request.view_args.get("execution_id") if request.view_args else None
    if execution_id and identifiers.PATTERN.fullmatch(execution_id):
        logged["execution_id"] = execution_id
    logs.begin_request(**logged)
    # Werkzeug makes one slash of `//api/...` before it looks for a route, whatever the map says.
    if environ["PATH_INFO"].startswith("//"):
        raise NotFound
    if "HTTP_HOST" not in environ and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise problems.Problem(400, "missing_host", "An HTTP/1.1 request must have a Host header.")


def _give_request_id(_: Request, context: Any, response: Response) -> None:
    response.headers["X-Request-ID"] = context.get("request_id", "")


def _healthz() -> Response:
    """Answers 200 while this process is alive, whatever the state of the store."""
    return Answer(json.dumps({"status": "ok"}), content_type="application/json")
