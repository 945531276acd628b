"""A worker class for gunicorn: its gevent worker with deadlines, bounded bodies and a clean stop.

`gunicorn.conf.py` names `LoopWorker`, and gunicorn runs one in each web process.

gunicorn patches the standard library for gevent (sockets, locks and threads then use the event
loop) in `init_process`: after the fork and before the application is imported. It does so in web
processes only. gunicorn's master process and the service's worker processes (`app.worker`) keep
the plain library.
"""

from __future__ import annotations

import contextlib
import errno
import io
import signal
import sys
import time
from functools import partial
from queue import SimpleQueue
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
from app.web.client import CLIENT, Client, notice_gone, wake_up
from app.web.connection import LINGER_SECONDS, Budget, Connection, Full

SKIP_BYTES = 16 * 1024 * 1024
"""How much of a body that is too large is read and thrown away, because most clients read the
answer only after they have sent the whole body.
"""

TRY_AGAIN_SECONDS = 1.0
"""The wait before gunicorn replaces a process that could not load the application."""

CHECK_SECONDS = 0.5
"""How often the deadlines of all connections are checked."""

USED_UP_SECONDS = 0.1
"""The wait when no file descriptor is free. The listener stays readable all the time, so without a
pause the loop would do nothing else.
"""

log = structlog.get_logger(__name__)

_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REQUESTS_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_APP_LOAD_ERROR = 4  # gunicorn's exit code that makes the master stop, not replace the process
_PIECE_BYTES = 256 * 1024


class Server(StreamServer):  # type: ignore[misc]  # gevent has no types
    """Accepts clients of one listener."""

    def do_read(self) -> Any:
        """Accepts a client. Pauses if no file descriptor is free, so that present clients go on."""
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
        """Accepts the clients that wait in the backlog, which closing the listener would reset."""
        while not (self.closed or self.full()) and (accepted := self.do_read()):
            self.do_handle(*accepted)
        super().close()


class Address:
    """Keeps a listener's address, which gunicorn needs for clients after the listener is closed."""

    def __init__(self, listener: Any):
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name


class Reply(wsgi.Response):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's response. Formats the `Date` header once per second instead of per answer."""

    _date, _written = "", 0

    def default_headers(self) -> list[str]:
        now = int(time.time())
        if now != Reply._written:
            Reply._date, Reply._written = f"Date: {util.http_date(now)}\r\n", now
        version = self.req.version
        kept = "close" if self.should_close() else "keep-alive"
        chunked = ["Transfer-Encoding: chunked\r\n"] if self.chunked else []
        first = f"HTTP/{version[0]}.{version[1]} {self.status}\r\nServer: {self.version}\r\n"
        return [first, Reply._date, f"Connection: {kept}\r\n", *chunked]


class LoopWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Serves all listeners in one event loop. Names of overridden methods are gunicorn's."""

    max_body_bytes = 1024 * 1024
    """The largest body that is kept. `app.web.lifecycle` sets it; the application refuses more."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._budget, self._connections = Budget(), set[Connection]()
        self._stopping = Event()

    def init_process(self) -> None:
        # gunicorn looks up each of its settings through two functions, twenty times per request.
        # Attributes in the instance's dict are found without them.
        self.cfg.__dict__.update(
            {name: setting.get() for name, setting in self.cfg.settings.items()}
        )
        super().init_process()

    def heed_signals(self, queued: SimpleQueue[int]) -> None:
        """Called right after the fork, as long before gunicorn sets its handlers.

        Until now this process had the master's handlers, which only put signals into the master's
        queue. `queued` is its copy: a request to stop in it would be lost, and the master would
        wait for this process until it kills it.
        """
        signal.signal(signal.SIGTERM, self.handle_exit)
        while not queued.empty():
            if queued.get_nowait() in _REQUESTS_TO_STOP:
                self.handle_exit(signal.SIGTERM, None)

    def load_wsgi(self) -> None:
        """Loads the application. Prints a configuration error as its sentence, without a traceback.

        At the start of the service, the error ends it. Later, the other processes keep serving, and
        gunicorn tries again until the file is corrected.
        """
        if not self.alive:
            sys.exit(0)  # the request to stop came before anything was loaded
        try:
            super().load_wsgi()
        except ConfigurationError as error:
            print(error, file=sys.stderr, flush=True)
            if self.age <= self.cfg.workers:  # gunicorn numbers processes: one of the first ones
                sys.exit(_APP_LOAD_ERROR)
            time.sleep(TRY_AGAIN_SECONDS)
            sys.exit(1)

    def run(self) -> None:
        gevent.get_hub().print_exception = log_exception
        pool = Pool(self.worker_connections)
        servers = [
            Server(listener, handle=partial(self.handle, Address(listener)), spawn=pool)
            for listener in self.sockets
        ]
        for server in servers:
            if self.cfg.workers > 1:
                server.max_accept = 1  # otherwise one process could take all waiting clients
            server.start()
        while not self._stopping.wait(CHECK_SECONDS):
            self._check_deadlines()
        for connection in list(self._connections):
            wake_up(connection)  # waits and streams end at once, so that clients go elsewhere
        for server in servers:
            server.close()
        self._finish(pool)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._stopping.set()

    def timeout_ctx(self) -> Any:
        """Turns gunicorn's timer for keep-alive off: `Connection` has a deadline for that."""
        return contextlib.nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        # Times 9, since a chunk of one byte takes six bytes, and clients may pad a chunk's size.
        max_bytes = self._head_bytes + SKIP_BYTES + 9 * self.max_body_bytes
        connection = Connection(client, self._budget, max_bytes)
        self._connections.add(connection)
        try:
            super().handle(listener, connection, addr)
        finally:
            self._connections.discard(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: Connection, addr: Any) -> None:
        # gunicorn would answer in the version of the request, and this is the highest it supports.
        req.version = min(req.version, (1, 1))
        if len(self._connections) >= self.worker_connections:
            req.force_close()  # no keep-alive, since another client may wait for this connection
        self._receive_body(req, sock)
        sock.begin_to_answer()
        try:
            self._answer(listener_name, req, sock, addr)
        except gevent.GreenletExit:  # the process ends, and its time to finish is over
            raise StopIteration from None
        finally:
            req.body = io.BytesIO()  # the parser keeps the request, and its body, until the next
        sock.begin_to_wait(self.cfg.keepalive, idle=not req.unreader.buf.tell())

    def _answer(self, listener_name: str, req: Any, sock: Connection, addr: Any) -> None:
        """Does what gunicorn's method does, without its access log and HTTP/2."""
        self.cfg.pre_request(self, req)
        reply, environ = wsgi.create(req, sock, addr, listener_name, self.cfg, Reply)
        environ["wsgi.multithread"] = True
        environ[CLIENT] = Client(sock, self._stopping.is_set, req.body)
        if not self.alive:
            reply.force_close()
        body: Any = None
        try:
            body = self.wsgi(environ, reply.start_response)
            if sock.streams or not self.alive:  # the process may have begun to stop meanwhile
                reply.force_close()
            for piece in body:
                reply.write(piece)
            reply.close()
        except Exception as error:
            if not reply.headers_sent or isinstance(error, OSError):
                raise
            # A part of the answer is sent already, so no error answer can follow.
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
        """Reads the whole body, so that no view waits for a client or meets bad framing."""
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

    def _skip_body(self, req: Any, connection: Connection, max_bytes: int) -> None:
        """Throws a body away that is too large, and ends the connection after the answer."""
        while max_bytes > 0 and (piece := req.body.read(min(max_bytes, _PIECE_BYTES))):
            max_bytes -= len(piece)
            connection.release()
        req.force_close()
        req.body = io.BytesIO()

    def _finish(self, pool: Any) -> None:
        """Waits for running requests to end, up to `graceful_timeout`."""
        until = time.monotonic() + self.cfg.graceful_timeout
        idle_until = time.monotonic() + LINGER_SECONDS
        while len(pool) and time.monotonic() < until:
            pool.join(timeout=CHECK_SECONDS)
            self._check_deadlines()
            # A client may be sending its next request already, which a close would reset. So idle
            # connections stay open for a moment.
            if time.monotonic() > idle_until:
                for connection in self._connections:
                    connection.close_if_idle()
        pool.kill(timeout=1.0)

    def _check_deadlines(self) -> None:
        self.notify()
        now = time.monotonic()
        for connection in list(self._connections):
            connection.end_if_late(now)
        notice_gone(self._connections)

    @property
    def _head_bytes(self) -> int:
        return int(
            self.cfg.limit_request_line
            + self.cfg.limit_request_fields * (self.cfg.limit_request_field_size + 2)
        )


def log_exception(_: Any, kind: Any, error: BaseException | None, places: Any) -> None:
    """Logs what a greenlet or callback raised; gevent would print a traceback to stderr instead."""
    logs.crashed(kind, error, places)
