"""gunicorn's thread worker, made so that only whole requests get a thread. Knows HTTP's framing, not the API.

gunicorn lets a thread read the request it serves, so a few clients that drip their bytes hold all threads.
Here the event loop collects each request first, within a deadline; the thread then reads from memory. What
is right or wrong about a request, gunicorn's own parser decides, as ever.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
import socket
import struct
from collections import deque
from concurrent.futures import Future
from functools import partial
from selectors import EVENT_READ
from time import monotonic
from typing import Any

from gunicorn.http import get_parser
from gunicorn.http.unreader import Unreader
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

READ_SECONDS = 12.0
"""For a whole request, from its first byte or its connection's opening: 1 MiB needs no more than 90 KiB/s."""

WRITE_SECONDS = 5.0
"""Without any progress in sending an answer; then the connection is closed."""

LINGER_SECONDS = 2.0
"""What a client may take to read the last answer and to close, which it does not read while it is sending."""

SKIP_BYTES = 16 * 1024 * 1024
"""What is read of a body that is too large: a client that is still sending would miss the answer."""

HELD_BYTES = 128 * 1024 * 1024
"""What all unfinished requests of a process may hold together."""

_PIECE_BYTES = 256 * 1024
_LINE_BYTES = 8192
_FRAMING = re.compile(rb"\n(content-length|transfer-encoding)([ \t]*):([^\r\n]*)", re.IGNORECASE)
_EXPECT = re.compile(rb"\nexpect:[ \t]*100-continue[ \t]*\r", re.IGNORECASE)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class Incoming(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """A request as far as it has arrived; then what the parser reads it from, instead of a socket.

    `short` says that there is more of this request than is kept: the connection must end with it.
    """

    def __init__(self, max_head_bytes: int, max_body_bytes: int):
        super().__init__()
        self._max_head_bytes, self._max_body_bytes = max_head_bytes, max_body_bytes
        self.begin()

    def begin(self) -> None:
        """Forgets the request before."""
        self.kept = bytearray()
        self.short = self.waits_for_continue = False
        self._body_at = self._body_bytes = self._next_chunk_at = self._skip_bytes = 0

    def feed(self, data: bytes) -> bool:
        """Takes what has arrived. True: the request is whole, or the parser can say already what is wrong."""
        if self.short:
            return self._skip(data)
        searched = max(0, len(self.kept) - 3)
        self.kept += data
        if not self._body_at:
            end = self.kept.find(b"\r\n\r\n", searched)
            if end < 0:
                return self._can_not_be_a_head(searched)
            self._read_framing(end + 4)
        if self._next_chunk_at:
            return self._chunks_are_whole()
        if self._body_bytes > self._max_body_bytes:
            return self._begin_to_skip(self._body_bytes)
        return len(self.kept) >= self._body_at + self._body_bytes

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The parser asks for more than is kept: as far as it can see, the client has gone."""
        self.short = True
        return b""

    def _can_not_be_a_head(self, searched: int) -> bool:
        if len(self.kept) > _LINE_BYTES and self.kept.find(b"\r\n", 0, _LINE_BYTES) < 0:
            return True
        return len(self.kept) > self._max_head_bytes or bool(_BARE_LF.search(self.kept, searched))

    def _read_framing(self, body_at: int) -> None:
        """How long the body is. Where that is not plain, it has none: the parser refuses or the connection ends."""
        self._body_at = body_at
        head = bytes(self.kept[:body_at])
        self.waits_for_continue = bool(_EXPECT.search(head))
        framing = _FRAMING.findall(head)
        if len(framing) == 1 and not framing[0][1]:
            name, value = framing[0][0].lower(), framing[0][2].strip(b" \t").lower()
            if name == b"content-length" and value.isdigit() and len(value) < 40:
                self._body_bytes = int(value)
            elif name == b"transfer-encoding" and value == b"chunked":
                self._next_chunk_at = body_at

    def _chunks_are_whole(self) -> bool:
        while (end := self.kept.find(b"\r\n", self._next_chunk_at)) >= 0:
            size = _CHUNK_SIZE.match(self.kept, self._next_chunk_at)
            if not size:
                return True
            if int(size[0], 16) == 0:
                return self.kept.find(b"\r\n\r\n", end) >= 0  # behind the trailers, if there are any
            self._body_bytes += int(size[0], 16)
            self._next_chunk_at = end + 2 + int(size[0], 16) + 2
        if self._body_bytes - max(0, self._next_chunk_at - len(self.kept)) > self._max_body_bytes:
            return self._begin_to_skip(SKIP_BYTES)
        framing_bytes = len(self.kept) - self._body_at - self._body_bytes
        return framing_bytes > 8 * self._max_body_bytes or len(self.kept) - self._next_chunk_at > _LINE_BYTES

    def _begin_to_skip(self, body_bytes: int) -> bool:
        """Keeps nothing any more. With very much to come, or a client that asked before, nothing is waited for."""
        self.short = True
        self._skip_bytes = body_bytes if body_bytes <= SKIP_BYTES and not self.waits_for_continue else 0
        arrived = bytes(self.kept[self._body_at :])
        return self._skip(arrived)

    def _skip(self, data: bytes) -> bool:
        self._skip_bytes -= len(data)
        return self._skip_bytes <= 0 or (self._next_chunk_at > 0 and data.endswith(b"0\r\n\r\n"))


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Serves whole requests only. TLS is left to whatever stands in front: its bytes can not be collected here."""

    max_body_bytes = 1024 * 1024
    """The largest body that is kept; the application refuses what is larger."""

    pending_conns: deque[TConn]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._lingering: deque[TConn] = deque()

    def enqueue_req(self, conn: TConn) -> None:
        """A connection was opened, or a further request begins on it."""
        if conn.parser is None:
            _prepare(conn, self._incoming())
        incoming = conn.parser.unreader
        incoming.begin()
        conn.timeout = monotonic() + READ_SECONDS
        whole = True if incoming.feed(incoming.take_buffered()) else self._receive(conn)
        if whole is None:
            self.pending_conns.append(conn)  # gunicorn closes what it finds here after its timeout
            self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))
        else:
            self._settle(conn, whole)

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        whole = self._receive(conn)
        if whole is not None:
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self._settle(conn, whole)

    def finish_request(self, conn: TConn, fs: Future[bool]) -> None:
        """Ends a connection without waiting for its client, as gunicorn would do here, in the event loop."""
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
        while self._lingering and self._lingering[0].timeout <= monotonic():
            self._drop_lingering(self._lingering[0])

    def handle(self, conn: TConn) -> bool:
        return bool(super().handle(conn)) and not conn.parser.unreader.short

    def handle_request(self, req: Any, conn: TConn) -> bool:
        req._expected_100_continue = False  # the client was told to go on
        if conn.parser.unreader.short:
            req.force_close()
        else:
            req.body = io.BytesIO(req.body.read())  # bad chunks are found here, not in the middle of the application
        try:
            return bool(super().handle_request(req, conn))
        except BlockingIOError as error:
            raise BrokenPipeError(errno.EPIPE, "The client does not take its answer.") from error

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
        waited = incoming.waits_for_continue
        try:
            data = conn.sock.recv(_PIECE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return False
        if not data or self._hold_too_much(incoming):
            return False
        if incoming.feed(data):
            return True
        if incoming.waits_for_continue and not waited:
            with contextlib.suppress(OSError):
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)
        return None

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
    """Lets the parser read from `incoming`, and gives up on a client that does not take its answer."""
    conn.parser = get_parser(conn.cfg, (), conn.client)
    conn.parser.unreader = incoming
    conn.data_ready = True
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(WRITE_SECONDS), 0))
