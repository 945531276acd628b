"""Reads a request's `traceparent` header, adds its trace id to log lines, and records a span.

`app.api.build` registers it as a step before and after every view. Views pass `g.traceparent` on to
the execution, so that the worker's spans belong to the same trace.
"""

from __future__ import annotations

from typing import Any

from flask import Request, Response

from app.api.application import Application
from app.telemetry import logs, tracing

# Machines call these every few seconds; their spans would bury all others.
UNTRACED = frozenset(("/healthz", "/readyz", "/metrics"))


def register(app: Application, traces: tracing.Tracing) -> None:
    """Adds the steps. `g.traceparent` is None if the request has none and tracing is off."""

    def begin(request: Request, context: Any) -> None:
        context.traceparent = tracing.accepted(request.environ.get("HTTP_TRACEPARENT"))
        if traces.enabled and request.url_rule and request.url_rule.rule not in UNTRACED:
            route = request.url_rule.rule
            context.span = traces.start(
                f"{request.method} {route}",
                "server",
                context.traceparent,
                http__request__method=request.method,
                http__route=route,
                url__path=request.path,
            )
            context.traceparent = context.span.traceparent
        if context.traceparent:
            logs.name_in_request(trace_id=tracing.trace_id(context.traceparent))

    def end(request: Request, context: Any, response: Response) -> None:
        if span := context.get("span"):
            span.set(http__response__status_code=response.status_code)
            span.end(str(response.status_code) if response.status_code >= 500 else None)

    app.extensions["tracing"] = traces
    app.before.append(begin)
    if traces.enabled:
        app.after.insert(0, end)
