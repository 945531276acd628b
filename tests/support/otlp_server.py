"""A trace collector for tests: receives OTLP over HTTP, and keeps every span.

`tests/worker/test_traces.py` runs services that send to it.
"""

from __future__ import annotations

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class OtlpServer:
    """Started by `with`. A span is a dict of its fields; its `attributes` are plain values."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                owner.spans += _read(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Prints nothing: the output of tests belongs to failures."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def begin(self) -> None:
        """Removes the spans of earlier tests."""
        self.spans = []

    def __enter__(self) -> OtlpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, trace_id: str, count: int, seconds: float = 60) -> list[dict[str, Any]]:
        """Waits until a trace has `count` spans. Returns them in the order of their starts."""
        deadline = time.monotonic() + seconds
        while len(found := [span for span in self.spans if span["trace_id"] == trace_id]) < count:
            assert time.monotonic() < deadline, self.spans
            time.sleep(0.05)
        return sorted(found, key=lambda span: span["began"])


def _read(body: bytes) -> list[dict[str, Any]]:
    return [
        {
            "service": {
                attribute.key: attribute.value.string_value
                for attribute in resource.resource.attributes
            }["service.name"],
            "name": span.name,
            "kind": span.kind,
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent_id": span.parent_span_id.hex(),
            "links": [link.span_id.hex() for link in span.links],
            "began": span.start_time_unix_nano,
            "failed": span.status.code == 2,
            "attributes": {attribute.key: _value(attribute.value) for attribute in span.attributes},
        }
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
