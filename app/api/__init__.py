"""The HTTP side: blueprints, schemas, problems. Knows the service; knows neither Redis nor RQ."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from flask import Flask, Request, Response
from werkzeug.exceptions import NotFound

from app.api import access, docs, executions, limits, operations, problems, quotas, targets, traces
from app.api.application import Answer, Application
from app.api.openapi import ApiDescription
from app.api.schemas import ProblemSchema
from app.api.security import SecurityPlugin
from app.domain import identifiers
from app.services.authentication import Authenticator
from app.services.executions import ExecutionService
from app.settings import Settings
from app.telemetry import logs, tracing

_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")


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
    app.before.append(_begin)
    traces.register(app, tracing.connect(settings))
    access.register(app, ring, metrics_open=settings.metrics == "open")
    limits.register(app, settings, service, executions.earlier_start)
    app.after[:0] = [quotas.tell, _give_request_id]  # the others measure, up to the last
    problems.register(app)
    described = ApiDescription(
        app, spec_kwargs={"extra_plugins": [SecurityPlugin(app, ring.required)]}
    )
    described.spec.components.schema("Problem", schema=ProblemSchema())
    described.register_blueprint(executions.blueprint)
    described.register_blueprint(targets.blueprint)
    targets.register(app, service.catalog)
    docs.register(app)
    app.add_url_rule("/healthz", view_func=_healthz)
    return app


def _begin(request: Request, context: Any) -> None:
    """The caller's own `X-Request-ID` where it is a plain one, else a new one; every log line
    carries it.

    `//api/...` is not this API; Werkzeug has made one slash of it by the time it looks for a route.
    """
    environ = request.environ
    given = environ.get("HTTP_X_REQUEST_ID")
    context.request_id = given if given and _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()
    logged = {"request_id": context.request_id}
    execution_id = request.view_args.get("execution_id") if request.view_args else None
    if execution_id and identifiers.PATTERN.fullmatch(execution_id):
        logged["execution_id"] = execution_id
    logs.begin_request(**logged)
    if environ["PATH_INFO"].startswith("//"):
        raise NotFound
    if "HTTP_HOST" not in environ and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise problems.Problem(400, "missing_host", "An HTTP/1.1 request must have a Host header.")


def _give_request_id(_: Request, context: Any, response: Response) -> None:
    response.headers["X-Request-ID"] = context.get("request_id", "")


def _healthz() -> Response:
    """This process lives. It says nothing about the store."""
    return Answer(json.dumps({"status": "ok"}), content_type="application/json")
