"""Reads `traceparent` headers, and records OpenTelemetry spans if they are switched on.

The web process and the worker call `connect()` once and start spans through the result. A
traceparent is always accepted, stored with the execution and passed on; this needs no library.
Spans are recorded if OTEL_EXPORTER_OTLP_ENDPOINT is set and requirements-otel.txt is installed, and
sent as OTLP over HTTP. The SDK reads its other OTEL_* variables. No other module imports
OpenTelemetry.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections.abc import Mapping
from typing import Any, Literal

import structlog

from app.settings import Settings

CLOSE_SECONDS = 2.0
"""How long the end of a process waits for spans to be sent. The rest is given up."""

SEND_EVERY_MS = 1000
"""A killed process loses at most the spans of this time. The SDK's default is five seconds."""

_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)

log = structlog.get_logger(__name__)

Kind = Literal["server", "consumer", "client"]


def accepted(header: str | None) -> str | None:
    """Returns the `traceparent` to pass on, or None if the header is missing or invalid.

    Follows W3C Trace Context: of a later version the known parts count, and version 00 is passed
    on.
    """
    found = _HEADER.fullmatch(header or "")
    if not found:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    # The standard forbids version ff, ids that are all zeros, and further parts in version 00.
    if version == "ff" or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    if version == "00":
        return None if rest else found[0]
    # Of the flags, only the first bit ("sampled") is known to version 00.
    return f"00-{trace_id}-{parent_id}-{int(flags, 16) & 1:02x}"


def trace_id(traceparent: str) -> str:
    return traceparent.split("-")[1]


class Span:
    """One operation with a start and an end; this base class records nothing.

    `traceparent` is what calls made within it pass on, or None.
    """

    def __init__(self, traceparent: str | None):
        self.traceparent = traceparent

    def set(self, **attributes: Any) -> None:
        """Adds attributes. `__` in a name becomes a dot, and None values are left out."""

    def end(self, error_type: str | None = None) -> None:
        """Ends the span, with the type of the error if it failed. Called once."""


class Tracing:
    """Starts spans; this base class records nothing."""

    enabled = False

    def start(
        self, name: str, kind: Kind, parent: str | None, *, link: bool = False, **attributes: Any
    ) -> Span:
        """Starts a span under `parent`, which is a traceparent or None.

        With `link`, the span also links to its parent, as spans do on the other side of a queue.
        """
        return Span(parent)

    def close(self) -> None:
        """Sends the remaining spans. Called at the end of a process."""


def warn_if_missing(settings: Settings) -> None:
    """Logs a warning if spans are switched on, but the packages for them are not installed."""
    if settings.otlp_endpoint and not _installed():
        log.warning(
            "opentelemetry_missing",
            help="Install requirements-otel.txt, or unset OTEL_EXPORTER_OTLP_ENDPOINT.",
        )


def connect(settings: Settings) -> Tracing:
    """Returns the tracing of one process. Opens no connection yet.

    Call it after a fork: the SDK starts a thread, and threads do not survive one.
    """
    if not settings.otlp_endpoint or not _installed():
        return Tracing()
    return _OpenTelemetry()


def preload(settings: Settings) -> list[str]:
    """Returns modules that are slow to import, for a process to import before it forks others."""
    return [_EXPORTER] if settings.otlp_endpoint and _installed() else []


def _installed() -> bool:
    try:
        return importlib.util.find_spec(_EXPORTER) is not None
    except ImportError:  # raised if a package above the module is missing
        return False


class _RecordedSpan(Span):
    def __init__(self, span: Any):
        context = span.get_span_context()
        super().__init__(
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        )
        self._span = span

    def set(self, **attributes: Any) -> None:
        self._span.set_attributes(_dotted(attributes))

    def end(self, error_type: str | None = None) -> None:
        if error_type:
            from opentelemetry.trace import StatusCode

            self.set(error__type=error_type)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _OpenTelemetry(Tracing):
    enabled = True

    # The imports are inside of functions, since the packages are optional and slow to import.
    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # An explicit value would take precedence over the SDK's own variable.
        named = (
            {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "async-execution-api"}
        )
        # No `atexit` hook: it would wait longer than CLOSE_SECONDS. `close` is called instead.
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        delay = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else SEND_EVERY_MS
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay)
        )
        self._tracer = self._provider.get_tracer("app")

    def start(
        self, name: str, kind: Kind, parent: str | None, *, link: bool = False, **attributes: Any
    ) -> Span:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": parent} if parent else {}
        context = TraceContextTextMapPropagator().extract(carrier)
        linked = trace.get_current_span(context).get_span_context()
        links = [trace.Link(linked)] if link and parent else []
        kinds = {
            "server": trace.SpanKind.SERVER,
            "consumer": trace.SpanKind.CONSUMER,
            "client": trace.SpanKind.CLIENT,
        }
        span = self._tracer.start_span(name, context, kinds[kind], _dotted(attributes), links)
        return _RecordedSpan(span)

    def close(self) -> None:
        # In a thread, since `shutdown` waits for a collector that does not answer.
        closing = threading.Thread(
            target=self._provider.shutdown, name="tracing-close", daemon=True
        )
        closing.start()
        closing.join(CLOSE_SECONDS)


def _dotted(attributes: Mapping[str, Any]) -> dict[str, Any]:
    # Attribute names such as `error.type` are no Python identifiers.
    return {
        name.replace("__", "."): value for name, value in attributes.items() if value is not None
    }
