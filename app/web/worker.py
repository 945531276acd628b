"""gunicorn's gevent worker, with deadlines, whole and bounded bodies, and a stop that resets
nobody.

gunicorn patches the standard library for gevent (sockets, locks and threads become those of the
event loop) in `init_process`: after the fork and before the application is imported. That is the
one place. The master process, which forks and waits for children, is not patched, and workers of
the queue do not know gevent.
"""

from __future__ import annotations

import contextlib
import errno
import io
import signal
import sys
import time
from functools import partial
from typing import Any

import gevent
import structlog
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData, UnsupportedTransferCoding
from gunicorn.workers.ggevent import GeventWorker

from app.domain.errors import ConfigurationError
from app.telemetry import logs
from app.web.connection import LINGER_SECONDS, Budget, Connection, Full

SKIP_BYTES = 16 * 1024 * 1024
"""What is read of a body that is too large: a client that is still sending would miss the answer.
"""

TRY_AGAIN_SECONDS = 1.0

LOOK_SECONDS = 0.5
"""How often the deadlines of all connections are looked at."""

USED_UP_SECONDS = 0.1
"""The wait where files are used up: the listener stays ready, and would be asked without a pause.
"""

log = structlog.get_logger(__name__)

_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_APP_LOAD_ERROR = 4  # gunicorn's own code: it stops instead of starting the process again for ever
_PIECE_BYTES = 256 * 1024


class Server(StreamServer):  # type: ignore[misc]  # gevent has no types
    """Accepts clients of one listener."""

    def do_read(self) -> Any:
        """Where there is no file for one more connection, those that are held go on all the same."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in _USED_UP:
                raise
            self.stop_accepting()
            gevent.spawn_later(USED_UP_SECONDS, self._accept_again)
            return None

    def _accept_again(self) -> None:
        if self.started:
            self.start_accepting()

    def close(self) -> None:
        """Takes in first whoever has connected already: the end of a listener resets them."""
        while not (self.closed or self.full()) and (accepted := self.do_read()):
            self.do_handle(*accepted)
        super().close()


class Address:
    """Stands in for a listener, whose clients are served on when it is closed."""

    def __init__(self, listener: Any):
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name


class Reply(wsgi.Response):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's answer, with a `Date` that is written once a second."""

    _date, _written = "", 0

    def default_headers(self) -> list[str]:
        now = int(time.time())
        if now != Reply._written:
            Reply._date, Reply._written = f"Date: {util.http_date(now)}\r\n", now
        version, kept = self.req.version, "close" if self.should_close() else "keep-alive"
        chunked = ["Transfer-Encoding: chunked\r\n"] if self.chunked else []
        first = f"HTTP/{version[0]}.{version[1]} {self.status}\r\nServer: {self.version}\r\n"
        return [first, Reply._date, f"Connection: {kept}\r\n", *chunked]


class LoopWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    max_body_bytes = 1024 * 1024
    """The largest body that is read; the application refuses what is larger."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._budget, self._connections = Budget(), set[Connection]()

    def init_process(self) -> None:
        # gunicorn finds each of its settings through two functions, twenty times a request; an
        # attribute needs none.
        self.cfg.__dict__.update(
            {name: setting.get() for name, setting in self.cfg.settings.items()}
        )
        self._stopping = Event()
        signal.signal(
            signal.SIGTERM, self.handle_exit
        )  # gunicorn does so after the patching, which takes a moment
        super().init_process()

    def load_wsgi(self) -> None:
        """A mistake in the configuration is said in its own words. It ends the service at its
        start; later the other processes serve on, and this one is tried again until the file is
        mended.
        """
        try:
            super().load_wsgi()
        except ConfigurationError as error:
            print(error, file=sys.stderr, flush=True)
            if self.age <= self.cfg.workers:
                sys.exit(_APP_LOAD_ERROR)
            time.sleep(TRY_AGAIN_SECONDS)
            sys.exit(1)

    def run(self) -> None:
        gevent.get_hub().print_exception = log_exception
        pool = Pool(self.worker_connections)
        servers = [
            Server(each, handle=partial(self.handle, Address(each)), spawn=pool)
            for each in self.sockets
        ]
        for server in servers:
            server.max_accept = (
                1 if self.cfg.workers > 1 else server.max_accept
            )  # all processes get their share
            server.start()
        while not self._stopping.wait(LOOK_SECONDS):
            self._look_after_connections()
        for server in servers:
            server.close()
        self._finish(pool)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._stopping.set()

    def timeout_ctx(self) -> Any:
        """gunicorn's own limit for keep-alive, in place of which connections have deadlines."""
        return contextlib.nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        most_bytes = (
            self._head_bytes + SKIP_BYTES + 9 * self.max_body_bytes
        )  # chunks have their framing
        connection = Connection(client, self._budget, most_bytes)
        self._connections.add(connection)
        try:
            super().handle(listener, connection, addr)
        finally:
            self._connections.discard(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: Connection, addr: Any) -> None:
        req.version = min(
            req.version, (1, 1)
        )  # the highest that is spoken here; gunicorn answers as it was asked
        if len(self._connections) >= self.worker_connections:
            req.force_close()  # somebody may be waiting to be let in
        self._receive_body(req, sock)
        sock.begin_to_answer()
        try:
            self._answer(listener_name, req, sock, addr)
        except gevent.GreenletExit:  # the process ends, and has waited for long enough
            raise StopIteration from None
        finally:
            req.body = io.BytesIO()  # the parser holds on to the request until the next one
        sock.begin_to_wait(self.cfg.keepalive, idle=not req.unreader.buf.tell())

    def _answer(self, listener_name: str, req: Any, sock: Connection, addr: Any) -> None:
        """What gunicorn's own does, without its access log, the `Date` of each answer and HTTP/2."""
        self.cfg.pre_request(self, req)
        reply, environ = wsgi.create(req, sock, addr, listener_name, self.cfg, Reply)
        environ["wsgi.multithread"] = True
        if not self.alive:
            reply.force_close()
        body: Any = None
        try:
            body = self.wsgi(environ, reply.start_response)
            for piece in body:
                reply.write(piece)
            reply.close()
        except Exception as error:
            if not reply.headers_sent or isinstance(error, OSError):
                raise
            # Half of an answer is there; a whole one cannot follow it.
            log.error("request_crashed", method=req.method, path=req.path, exc_info=error)
            raise StopIteration from None
        finally:
            if hasattr(body, "close"):
                body.close()
        if reply.should_close():
            raise StopIteration

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        if isinstance(exc, Full):
            util.write_error(
                client,
                503,
                "Service Unavailable",
                "Too many large requests at once. Try again later.",
            )
        else:
            super().handle_error(req, client, addr, exc)

    def _receive_body(self, req: Any, connection: Connection) -> None:
        """Reads all of it: what is wrong with its framing is found here, not in the middle of the
        application.
        """
        headers = dict(req.headers)
        if headers.get("TRANSFER-ENCODING", "chunked").lower() != "chunked":
            raise UnsupportedTransferCoding("only chunked")
        length = int(headers.get("CONTENT-LENGTH", 0))
        asks_first, req._expected_100_continue = req._expected_100_continue, False
        if length > self.max_body_bytes:
            self._skip_body(req, connection, 0 if asks_first or length > SKIP_BYTES else length)
            return
        if asks_first:
            connection.send(_CONTINUE)
        body = req.body.read(self.max_body_bytes + 1)
        if len(body) < length:
            raise NoMoreData
        if len(body) > self.max_body_bytes:
            self._skip_body(req, connection, 0 if asks_first else SKIP_BYTES)
        req.body = io.BytesIO(body)

    def _skip_body(self, req: Any, connection: Connection, most_bytes: int) -> None:
        """Of a body that is too large nothing is kept, and the connection ends with it."""
        while most_bytes > 0 and (piece := req.body.read(min(most_bytes, _PIECE_BYTES))):
            most_bytes -= len(piece)
            connection.release()
        req.force_close()
        req.body = io.BytesIO()

    def _finish(self, pool: Any) -> None:
        """Lets requests end. A client that was just answered may send one more before its
        connection is closed.
        """
        until = time.monotonic() + self.cfg.graceful_timeout
        idle_until = time.monotonic() + LINGER_SECONDS
        while len(pool) and time.monotonic() < until:
            pool.join(timeout=LOOK_SECONDS)
            self._look_after_connections()
            if time.monotonic() > idle_until:
                for connection in self._connections:
                    connection.close_if_idle()
        pool.kill(timeout=1.0)

    def _look_after_connections(self) -> None:
        self.notify()
        now = time.monotonic()
        for connection in list(self._connections):
            connection.end_if_late(now)

    @property
    def _head_bytes(self) -> int:
        return int(
            self.cfg.limit_request_line
            + self.cfg.limit_request_fields * (self.cfg.limit_request_field_size + 2)
        )


def log_exception(_: Any, kind: Any, error: BaseException | None, places: Any) -> None:
    """Sends what a greenlet or a callback raised the way of all logs: gevent prints it to stderr,
    as it is.
    """
    logs.crashed(kind, error, places)
