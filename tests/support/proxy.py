"""A TCP proxy between a service and its store that can cut, delay, slow and lose traffic.

Tests of faults and `make chaos` use it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import Any, Literal

Mode = Literal["pass", "cut", "blackhole", "delay", "drop_answer"]


class Proxy:
    """Started by `with`. `mode` can be changed at any time, and applies to open connections too.

    `cut` closes connections and refuses new ones. `blackhole` passes nothing and closes nothing.
    `delay` delays each piece by `delay_seconds`. `drop_answer` passes the next request that
    contains `drop_after`, drops its answer, closes the connection, and returns to `pass`.

    `lose_for` simulates a network outage: what is sent meanwhile is delivered later, after newer
    calls. `bytes_per_second` is the speed of all connections together; None means no limit.
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None):
        self._tls = tls
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._closed = False
        self.port = 0
        self._mode: Mode = "pass"
        self.begin(upstream)

    def begin(self, upstream: str) -> None:
        """Resets the proxy and connects it to another store, for the next test that uses it."""
        self._upstream = upstream
        self._close_all()
        self.mode = "pass"
        self.delay_seconds = 0.2
        self.drop_after = b"FCALL"
        self.bytes_per_second: float | None = None
        self.delivered_late = 0
        self._outage_began_at = self._outage_ends_at = self._late_at = 0.0
        self._busy_until = [0.0, 0.0]
        self.dropped = 0
        self.round_trips = 0
        """How often a client sent after the store did. A pipeline is one, whatever its length."""

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Proxy:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._stop_listening()
        self._close_all()

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        before, self._mode = self._mode, mode
        if mode == "cut":
            self._stop_listening()
            self._close_all()
        elif before == "cut":
            self._listen()
        elif before == "blackhole":
            self._close_all()  # what was lost meanwhile is not sent again

    def lose_for(self, seconds: float, deliver_after_seconds: float) -> None:
        """Passes nothing for some seconds; then new connections work again.

        What was sent on an old connection meanwhile arrives later, even if its client hung up: a
        kernel keeps sending what was written before the close, with growing pauses.
        """
        now = time.monotonic()
        self._outage_began_at = now
        self._outage_ends_at = now + seconds
        self._late_at = now + deliver_after_seconds

    def kill_connections(self) -> None:
        self._close_all()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(512)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if (left_seconds := self._outage_ends_at - time.monotonic()) > 0:
                time.sleep(left_seconds)  # an outage does not refuse connections, they time out
                client.close()
                continue
            upstream = socket.socket(socket.AF_UNIX)
            try:
                client = self._tls.wrap_socket(client, server_side=True) if self._tls else client
                upstream.connect(self._upstream)
            except OSError:
                client.close()
                upstream.close()
                continue
            with self._lock:
                self._pairs.append((client, upstream))
            link = {"drop": False, "answered": True, "began_at": time.monotonic()}
            for source, sink, up in ((client, upstream, True), (upstream, client, False)):
                threading.Thread(
                    target=self._pump, args=(source, sink, up, link), daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, up: bool, link: dict[str, Any]
    ) -> None:
        try:
            while data := source.recv(65536):
                while self._mode == "blackhole" and not self._closed:
                    time.sleep(0.05)
                if self._mode == "delay":
                    time.sleep(self.delay_seconds)
                if link["began_at"] < self._outage_began_at <= time.monotonic() < self._late_at:
                    time.sleep(max(0.0, self._late_at - time.monotonic()))
                    self.delivered_late += up
                self._pace(up, len(data))
                if up and self._mode == "drop_answer" and self.drop_after in data:
                    link["drop"], self._mode = True, "pass"
                if not up and link["drop"]:
                    self.dropped += 1
                    break
                self.round_trips += up and link["answered"]
                link["answered"] = not up
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _pace(self, up: bool, count: int) -> None:
        if not self.bytes_per_second:
            return
        with self._lock:
            began_at = max(self._busy_until[up], time.monotonic())
            self._busy_until[up] = began_at + count / self.bytes_per_second
        time.sleep(max(0.0, self._busy_until[up] - time.monotonic()))

    def _close_all(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
