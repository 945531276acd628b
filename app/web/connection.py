"""Wraps a client's socket with deadlines and memory limits; gunicorn reads and writes through it.

`app.web.worker` creates a `Connection` for each client. A deadline is a time in `late_at`, which
the worker compares with the clock twice a second. A request would need three timers instead, and
starting one takes as long as finding the route.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import socket
import struct
import termios
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent.socket import cancel_wait_ex

READ_SECONDS = 12.0
"""How long a request may take to arrive, from its first byte or the start of the connection."""

WRITE_SECONDS = 5.0
"""How long a client may read nothing of its answer."""

SLOWEST_BYTES_PER_SECOND = 50 * 1024
"""A client that reads its answer more slowly than this, on average, loses its connection."""

LINGER_SECONDS = 2.0
"""How long a half-closed connection still reads. Closing it with unread data would send a reset,
and the client could lose the answer.
"""

HELD_BYTES = 128 * 1024 * 1024
"""Memory for all unfinished requests and unsent answers in one process together."""

SMALL_BYTES = 64 * 1024
"""The part of a request or answer that always gets memory, so that small requests are served even
if large ones have used up the rest.
"""

STREAM_BUFFER_BYTES = 64 * 1024
"""The kernel's send buffer of a stream (it takes twice as much). Otherwise it could grow to
megabytes for each client that reads nothing, and it would take long to notice.
"""

_LINGER_PIECE_BYTES = 64 * 1024


class Full(Exception):
    """There is no memory left for large requests; the client gets a 503."""


class Budget:
    """Counts the bytes that the connections of this process hold."""

    def __init__(self, limit: int = HELD_BYTES):
        self._limit, self.held = limit, 0

    def take(self, count: int, *, small: bool) -> bool:
        """Takes `count` bytes, or returns False if that is too much. `small` always succeeds."""
        if not small and self.held + count > self._limit:
            return False
        self.held += count
        return True

    def give_back(self, count: int) -> None:
        self.held -= count


class Connection:
    """Replaces the socket of one client for gunicorn.

    A client that misses a deadline, or sends more than `max_bytes` in one request, looks like one
    that has closed its connection.
    """

    def __init__(self, client: Any, budget: Budget, max_bytes: int):
        self._client = client
        self._budget = budget
        self._max_bytes = max_bytes
        self.late_at = monotonic() + READ_SECONDS
        self._answer_began_at = 0.0
        # The head of the present answer until it is sent, then empty; None before the answer.
        self._head: bytes | None = None
        self._received = 0  # bytes of the present request
        self._held = 0  # the part of them that counts in the budget
        self._sent = 0  # bytes of the present answer, those that wait to be sent included
        self._queued = 0  # bytes in the kernel's send buffer when it was last looked at
        self.idle = True  # no byte of the next request has arrived
        self.ended = False  # no more bytes will be read from the client
        self.streams = False  # the present answer goes on until something ends it
        self.gone = False  # the client has closed its side while a view waited
        # Wakes the view that waits with its answer; see `app.web.client`.
        self.wake: Callable[[], None] | None = None

    def begin_to_answer(self) -> None:
        """Called when the request is complete. The application has no deadline."""
        self.late_at = math.inf

    def begin_stream(self) -> None:
        """Called before an answer that goes on until something ends it. It is the last one."""
        self.streams = True
        with contextlib.suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BUFFER_BYTES)

    def begin_to_wait(self, seconds: float, *, idle: bool) -> None:
        """Called when a request was answered.

        `idle` means that no byte of the next one has arrived; it must begin within `seconds`.
        """
        self.flush()
        self.release()
        self.wake = None
        self._head = None
        self._received = self._sent = 0
        self.idle = idle
        self.late_at = monotonic() + (seconds if idle else READ_SECONDS)

    def release(self) -> None:
        """Gives the memory of the present request back."""
        self._budget.give_back(self._held)
        self._held = 0

    def end_if_late(self, now: float) -> None:
        """Shuts the connection down if its deadline has passed, and so wakes what waits for it."""
        if now > self.late_at and not (self._sent and self._takes_enough(now)):
            self.late_at = math.inf
            with contextlib.suppress(OSError):
                # While a request is read, the end of the file is enough to make gunicorn give up.
                self._client.shutdown(socket.SHUT_RDWR if self._sent else socket.SHUT_RD)

    def close_if_idle(self) -> None:
        """Ends the wait for the next request, unless a part of it has arrived."""
        if self.idle:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RD)

    def recv(self, size: int) -> bytes:
        """Reads a piece of a request. Raises `Full` if the budget is used up."""
        small = self._received < SMALL_BYTES
        if not small:
            gevent.sleep(0)  # other greenlets run between the pieces of a large request
        data = self._receive(min(size, SMALL_BYTES))
        self.ended = not data or self._received + len(data) > self._max_bytes
        if self.ended:
            return b""
        if not self._budget.take(len(data), small=small):
            raise Full
        if self.idle:
            self.idle, self.late_at = False, monotonic() + READ_SECONDS
        self._received += len(data)
        self._held += len(data)
        return data

    def sendall(self, data: Any) -> None:
        """Sends a piece of an answer. Raises `BrokenPipeError` if the client is too slow."""
        # The first piece is the head. It is sent with the next piece, which saves a packet.
        if self._head is None:
            self._head = bytes(data)
            return
        head, self._head = self._head, b""
        if len(head) + len(data) <= SMALL_BYTES:
            self._send_all(head + bytes(data))
        else:
            self._send_all(head)
            self._send_all(data)

    def flush(self) -> None:
        """Sends the head of an answer that has no body."""
        if self._head:
            self.sendall(b"")

    def send(self, data: bytes) -> int:
        """Sends at once. gunicorn uses it for `100 Continue`, which comes before the answer."""
        return int(self._client.send(data))

    def _send_all(self, data: Any) -> None:
        with memoryview(data) as view:
            self._begin_to_send(len(view))
            try:
                sent = self._client.send(view, 0, 0.0) if view else 0
            except (TimeoutError, BlockingIOError):
                sent = 0
            if sent < len(view):
                self._send_rest(view[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        if not self._budget.take(len(rest), small=len(rest) < SMALL_BYTES):
            raise BrokenPipeError(errno.EPIPE, "Too many clients are not reading their answers.")
        try:
            at = 0
            while at < len(rest):
                self._expect_progress()
                at += self._client.send(rest[at:])
        except cancel_wait_ex:  # `end_if_late`
            raise BrokenPipeError(errno.EPIPE, "The client is not reading its answer.") from None
        finally:
            self._budget.give_back(len(rest))
        self.late_at = math.inf

    def _begin_to_send(self, count: int) -> None:
        self._answer_began_at = self._answer_began_at if self._sent else monotonic()
        self._sent += count

    def _expect_progress(self) -> None:
        self.late_at = monotonic() + WRITE_SECONDS
        self._queued = self._in_send_buffer()

    def _takes_enough(self, now: float) -> bool:
        """Whether the client reads fast enough; extends the deadline.

        The kernel's send buffer is looked at too: the socket becomes writable only when a third of
        the buffer is free, and that may be more than 1 MiB. The buffer of a stream is so small that
        a third of it is enough of a sign.
        """
        if self.streams:
            return False
        before = self._queued
        self._queued = self._in_send_buffer()
        self.late_at = now + WRITE_SECONDS
        answer_due_at = (
            self._answer_began_at + WRITE_SECONDS + self._sent / SLOWEST_BYTES_PER_SECOND
        )
        return (
            now < answer_due_at
            and before - self._queued >= WRITE_SECONDS * SLOWEST_BYTES_PER_SECOND
        )

    def _in_send_buffer(self) -> int:
        """The number of sent bytes that the client has not confirmed."""
        count: int
        (count,) = struct.unpack(
            "i", fcntl.ioctl(self._client.fileno(), termios.TIOCOUTQ, bytes(4))
        )
        return count

    def close(self) -> None:
        """Closes the sending side, reads for up to `LINGER_SECONDS`, and closes."""
        with contextlib.suppress(OSError):
            self.flush()
        self.release()
        self.wake = None
        self._sent, self.late_at = 0, monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            if not self.ended:
                self._client.shutdown(socket.SHUT_WR)
                while self._receive(_LINGER_PIECE_BYTES):
                    gevent.sleep(0)
        self.late_at = math.inf
        self._client.close()

    def _receive(self, size: int) -> bytes:
        try:
            return bytes(self._client.recv(size))
        except cancel_wait_ex:
            # A deadline ended the wait. Bytes that arrived in the same moment are not lost.
            return bytes(self._client.recv(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
