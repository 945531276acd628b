"""The trace that a request belongs to: its `traceparent` is read, bound into log lines, and becomes a span."""

from __future__ import annotations

import structlog
from flask import Flask, Response, g, request

from app import tracing

UNTRACED = frozenset(("/healthz", "/readyz", "/metrics"))


def register(app: Flask, traces: tracing.Tracing) -> None:
    """Views find the traceparent to hand on in `g.traceparent`; None where there is none."""

    def begin() -> None:
        g.traceparent = tracing.accepted(request.headers.get("traceparent"))
        if traces.enabled and request.url_rule and request.url_rule.rule not in UNTRACED:
            route = request.url_rule.rule
            g.span = traces.start(
                f"{request.method} {route}",
                "server",
                g.traceparent,
                http__request__method=request.method,
                http__route=route,
                url__path=request.path,
            )
            g.traceparent = g.span.traceparent
        if g.traceparent:
            structlog.contextvars.bind_contextvars(trace_id=tracing.trace_id(g.traceparent))

    def end(response: Response) -> Response:
        if span := g.get("span"):
            span.set(http__response__status_code=response.status_code)
            span.end(str(response.status_code) if response.status_code >= 500 else None)
        return response

    app.extensions["tracing"] = traces
    app.before_request(begin)
    app.after_request(end)
