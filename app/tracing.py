"""Where a request comes from (`traceparent`), and, where it is set up, spans for OpenTelemetry.

A traceparent is accepted, kept with the execution and handed on in any case; that needs no library. Spans
are made where OTEL_EXPORTER_OTLP_ENDPOINT is set and requirements-otel.txt is installed, and sent as
OTLP over HTTP; the SDK's other OTEL_* variables apply. This is the only module that knows OpenTelemetry.
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
"""What is not sent by then, as a process ends, is given up."""

SEND_EVERY_MS = 1000

_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)

log = structlog.get_logger(__name__)

Kind = Literal["server", "consumer", "client"]


def accepted(header: str | None) -> str | None:
    """A `traceparent` as it is handed on; None for one that is missing or invalid (W3C Trace Context).

    Of a version that is not known yet the known parts count, and it is handed on as version 00.
    """
    found = _HEADER.fullmatch(header or "")
    if not found:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == "ff" or not trace_id.strip("0") or not parent_id.strip("0") or (version == "00" and rest):
        return None
    return found[0] if version == "00" else f"00-{trace_id}-{parent_id}-{int(flags, 16) & 1:02x}"


def trace_id(traceparent: str) -> str:
    return traceparent.split("-")[1]


class Span:
    """Something that takes time; this one is not recorded. `traceparent` is what it hands on, if anything."""

    def __init__(self, traceparent: str | None):
        self.traceparent = traceparent

    def set(self, **attributes: Any) -> None:
        """Adds attributes; `__` in a name stands for a dot, and what is None is left out."""

    def end(self, error_type: str | None = None) -> None:
        """Once. With the kind of error it ended with, if any."""


class Tracing:
    """Starts spans. This one records nothing."""

    enabled = False

    def start(self, name: str, kind: Kind, parent: str | None, *, link: bool = False, **attributes: Any) -> Span:
        """A span under `parent`, a traceparent or None; with `link` also linked to it, over a queue."""
        return Span(parent)

    def close(self) -> None:
        """Sends what is not sent yet. For the end of a process."""


def warn_if_missing(settings: Settings) -> None:
    """One line in the log where spans are wanted, but the packages for them are not there."""
    if settings.otlp_endpoint and not _installed():
        log.warning("opentelemetry_missing", help="Install requirements-otel.txt, or unset OTEL_EXPORTER_OTLP_ENDPOINT")


def connect(settings: Settings) -> Tracing:
    """For one process, after its fork. Opens no connection yet."""
    if not settings.otlp_endpoint or not _installed():
        return Tracing()
    return _OpenTelemetry()


def preload(settings: Settings) -> list[str]:
    """The modules that make it slow to begin, for a process that others are forked from."""
    return [_EXPORTER] if settings.otlp_endpoint and _installed() else []


def _installed() -> bool:
    try:
        return importlib.util.find_spec(_EXPORTER) is not None
    except ImportError:  # not even the first of these packages is there
        return False


class _RecordedSpan(Span):
    def __init__(self, span: Any):
        context = span.get_span_context()
        super().__init__(f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}")
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

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "async-execution-api"}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        delay = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else SEND_EVERY_MS
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay))
        self._tracer = self._provider.get_tracer("app")

    def start(self, name: str, kind: Kind, parent: str | None, *, link: bool = False, **attributes: Any) -> Span:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent} if parent else {})
        links = [trace.Link(trace.get_current_span(context).get_span_context())] if link and parent else []
        kinds = {"server": trace.SpanKind.SERVER, "consumer": trace.SpanKind.CONSUMER, "client": trace.SpanKind.CLIENT}
        return _RecordedSpan(self._tracer.start_span(name, context, kinds[kind], _dotted(attributes), links))

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


def _dotted(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in attributes.items() if value is not None}
