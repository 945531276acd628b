"""The worker class: its event loop collects requests and sends answers, its threads run the application."""

from __future__ import annotations

import contextlib
import errno
import io
import socket
from collections import deque
from concurrent.futures import Future
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from time import monotonic, sleep
from typing import Any

from gunicorn.http import get_parser
from gunicorn.http.errors import UnsupportedTransferCoding
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from app.server.incoming import Incoming
from app.server.outgoing import Outgoing

READ_SECONDS = 12.0
"""For a whole request, from its first byte or its connection's opening: 1 MiB needs no more than 90 KiB/s."""

LINGER_SECONDS = 2.0
"""What a client may take to read the last answer and to close, which it does not read while it is sending."""

HELD_BYTES = 128 * 1024 * 1024
"""What all unfinished requests of a process may hold together, and all answers that are not taken."""

USED_UP_SECONDS = 0.01
"""The wait where files are used up: the listener stays ready, and would be asked without a pause."""

_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PIECE_BYTES = 256 * 1024


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Serves whole requests only. TLS is left to whatever stands in front: its bytes can not be collected here."""

    max_body_bytes = 1024 * 1024
    """The largest body that is kept; the application refuses what is larger."""

    pending_conns: deque[TConn]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._lingering: deque[TConn] = deque()
        self._unsent: dict[TConn, Outgoing] = {}
        self._sending: dict[TConn, tuple[Outgoing, Future[bool]]] = {}

    def accept(self, listener: socket.socket) -> None:
        """Where there is nothing left to hold one more connection with, those that are held go on all the same."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in _USED_UP:
                raise
            sleep(USED_UP_SECONDS)

    def enqueue_req(self, conn: TConn) -> None:
        """A connection was opened, or a further request begins on it."""
        if conn.parser is None:
            _prepare(conn, self._incoming())
        incoming = conn.parser.unreader
        incoming.begin()
        conn.timeout = monotonic() + READ_SECONDS
        whole = True if incoming.feed(incoming.take_buffered()) else self._receive(conn)
        if whole is None:
            _tell_to_go_on(conn)
            self.pending_conns.append(conn)  # gunicorn closes what it finds here after its timeout
            self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))
        else:
            self._settle(conn, whole)

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        whole = self._receive(conn)
        if whole is None:
            _tell_to_go_on(conn)
        else:
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self._settle(conn, whole)

    def finish_request(self, conn: TConn, fs: Future[bool]) -> None:
        """Sends what is left of an answer; ends a connection. Waits for its client with neither."""
        if outgoing := self._unsent.pop(conn, None):
            self._begin_to_send(conn, outgoing, fs)
            return
        if fs.cancelled() or fs.result():
            super().finish_request(conn, fs)
            return
        if conn.sock.fileno() < 0:  # closed already, after an answer that broke off
            self._drop(conn)
            return
        conn.timeout = monotonic() + LINGER_SECONDS
        self._lingering.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self._on_lingering_socket_readable, conn))
        with contextlib.suppress(OSError):
            conn.sock.shutdown(socket.SHUT_WR)

    def murder_pending(self) -> None:
        super().murder_pending()
        for conn in [each for each in self._sending if each.timeout <= monotonic()]:
            self._drop_sending(conn)
        while self._lingering and self._lingering[0].timeout <= monotonic():
            self._drop_lingering(self._lingering[0])

    def handle(self, conn: TConn) -> bool:
        return bool(super().handle(conn)) and not conn.parser.unreader.short

    def handle_request(self, req: Any, conn: TConn) -> bool:
        if conn.parser.unreader.coded:
            raise UnsupportedTransferCoding("only chunked")
        req._expected_100_continue = False  # the client was told to go on
        if self.nr_conns >= self.worker_connections:
            req.force_close()  # somebody may be waiting to be let in, for whom a busy client would never make room
        if conn.parser.unreader.short:
            req.force_close()
        else:
            req.body = io.BytesIO(req.body.read())  # bad chunks are found here, not in the middle of the application
        client, outgoing = conn.sock, Outgoing(conn.sock)
        conn.sock = outgoing
        try:
            return bool(super().handle_request(req, conn))
        finally:
            conn.sock = client
            req.body = io.BytesIO()  # all of it was taken from the client; gunicorn closes where much seems to be left
            if outgoing.left_bytes:
                self._unsent[conn] = outgoing

    def set_accept_enabled(self, enabled: bool) -> None:
        """When stopping, takes in first whoever has connected already: a listener's end would reset them."""
        super().set_accept_enabled(enabled)
        if self.alive:
            return
        for listener in self.sockets:
            before = -1
            while before < self.nr_conns:
                before = self.nr_conns
                self.accept(listener)
            listener.close()
        silent_until = monotonic() + STOP_KEEPALIVE_LINGER
        for conn in self.pending_conns:
            conn.timeout = conn.timeout if conn.parser.unreader.kept else min(conn.timeout, silent_until)
        self.pending_conns = deque(sorted(self.pending_conns, key=lambda each: each.timeout))

    def _begin_to_send(self, conn: TConn, outgoing: Outgoing, fs: Future[bool]) -> None:
        held_bytes = outgoing.left_bytes + sum(each.left_bytes for each, _ in self._sending.values())
        if conn.sock.fileno() < 0 or held_bytes > HELD_BYTES:
            self._drop(conn)
            return
        conn.sock.setblocking(False)
        conn.timeout = outgoing.give_up_at
        self._sending[conn] = (outgoing, fs)
        self.poller.register(conn.sock, EVENT_WRITE, partial(self._on_sending_socket_writable, conn))

    def _on_sending_socket_writable(self, conn: TConn, client: socket.socket) -> None:
        outgoing, fs = self._sending[conn]
        try:
            if not outgoing.flush():
                conn.timeout = outgoing.give_up_at
                return
        except OSError:
            self._drop_sending(conn)
            return
        self.poller.unregister(client)
        del self._sending[conn]
        self.finish_request(conn, fs)

    def _drop_sending(self, conn: TConn) -> None:
        self.poller.unregister(conn.sock)
        del self._sending[conn]
        self._drop(conn)

    def _on_lingering_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        try:
            if client.recv(_PIECE_BYTES, socket.MSG_DONTWAIT):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop_lingering(conn)

    def _drop_lingering(self, conn: TConn) -> None:
        self._lingering.remove(conn)
        self.poller.unregister(conn.sock)
        self._drop(conn)

    def _drop(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()

    def _incoming(self) -> Incoming:
        fields, field_bytes = self.cfg.limit_request_fields, self.cfg.limit_request_field_size + 2
        return Incoming(self.cfg.limit_request_line + fields * field_bytes, self.max_body_bytes)

    def _receive(self, conn: TConn) -> bool | None:
        """Takes what is there. True: the request is whole. False: it will never be. None: wait for more."""
        incoming: Incoming = conn.parser.unreader
        try:
            data = conn.sock.recv(_PIECE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return False
        if not data or self._hold_too_much(incoming):
            return False
        return True if incoming.feed(data) else None

    def _hold_too_much(self, incoming: Incoming) -> bool:
        large = len(incoming.kept) >= _PIECE_BYTES / 4
        return large and sum(len(each.parser.unreader.kept) for each in self.pending_conns) > HELD_BYTES

    def _settle(self, conn: TConn, whole: bool) -> None:
        if whole:
            incoming: Incoming = conn.parser.unreader
            incoming.unread(bytes(incoming.kept))
            incoming.kept = bytearray()
            super().enqueue_req(conn)
        else:
            self._drop(conn)


def _prepare(conn: TConn, incoming: Incoming) -> None:
    """Lets the parser read from `incoming`."""
    conn.parser = get_parser(conn.cfg, (), conn.client)
    conn.parser.unreader = incoming
    conn.data_ready = True


def _tell_to_go_on(conn: TConn) -> None:
    if conn.parser.unreader.must_be_told_to_go_on():
        with contextlib.suppress(OSError):
            conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)
