"""A client's socket with deadlines, as gunicorn reads requests from it and writes answers to it.

A deadline is a time in `late_at`, which the worker looks at twice a second. So a request starts no
timer, of which it would need three, each as dear as its routing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import socket
import struct
import termios
from time import monotonic
from typing import Any

import gevent
from gevent.socket import cancel_wait_ex

READ_SECONDS = 12.0
"""For a whole request, from its first byte or from the opening of its connection."""

WRITE_SECONDS = 5.0
"""How long a client may take nothing of its answer."""

SLOWEST_BYTES_PER_SECOND = 50 * 1024
"""A client that takes less, over its whole answer, loses its connection."""

LINGER_SECONDS = 2.0
"""How long a closed connection still reads, so that its client is not reset before it has the
answer.
"""

HELD_BYTES = 128 * 1024 * 1024
"""What unfinished requests, and answers that are not taken, may hold in one process together."""

SMALL_BYTES = 64 * 1024
"""Of one request or answer; so much is held whatever the others hold, and is read without a pause.
"""

_LINGER_PIECE_BYTES = 64 * 1024


class Full(Exception):
    """Other clients' unfinished requests hold too much."""


class Budget:
    """What the connections of this process hold, in bytes."""

    def __init__(self, limit: int = HELD_BYTES):
        self._limit, self.held = limit, 0

    def take(self, count: int, *, small: bool) -> bool:
        """False, and nothing is taken, if that is too much. A small request or answer always has
        room.
        """
        if not small and self.held + count > self._limit:
            return False
        self.held += count
        return True

    def give_back(self, count: int) -> None:
        self.held -= count


class Connection:
    """Stands in for the socket of one client. An end of file is also what its slowness looks like.

    `most_bytes` of one request are read; whoever sends more of it is cut off.
    """

    def __init__(self, client: Any, budget: Budget, most_bytes: int):
        self._client, self._budget, self._most_bytes = client, budget, most_bytes
        self.late_at = monotonic() + READ_SECONDS
        self._answer_began_at = 0.0
        self._head: bytes | None = (
            None  # of the present answer, until it is sent; empty from then on
        )
        self._received = self._held = self._sent = self._queued = 0
        self.idle = True  # nothing of the next request is here
        self.ended = False  # nothing more comes from the client

    def begin_to_answer(self) -> None:
        """The request is here. What the application does with it takes as long as it takes."""
        self.late_at = math.inf

    def begin_to_wait(self, seconds: float, *, idle: bool) -> None:
        """A request was answered. `idle`: nothing of the next one is here yet, and it may take
        `seconds`.
        """
        self.flush()
        self.release()
        self._head = None
        self._received = self._sent = 0
        self.idle = idle
        self.late_at = monotonic() + (seconds if idle else READ_SECONDS)

    def release(self) -> None:
        """What was received is not kept."""
        self._budget.give_back(self._held)
        self._held = 0

    def end_if_late(self, now: float) -> None:
        """Whoever waits for this client is told that it has gone."""
        if now > self.late_at and not (self._sent and self._takes_enough(now)):
            self.late_at = math.inf
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR if self._sent else socket.SHUT_RD)

    def close_if_idle(self) -> None:
        """Ends the wait for a next request. Part of one that is here already is still read."""
        if self.idle:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RD)

    def recv(self, size: int) -> bytes:
        """Raises `Full`. Gives way to others before each further piece of a large request."""
        small = self._received < SMALL_BYTES
        if not small:
            gevent.sleep(0)
        data = self._receive(min(size, SMALL_BYTES))
        self.ended = not data or self._received + len(data) > self._most_bytes
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
        """Raises `BrokenPipeError` if the client has gone, or takes too little. The first piece of
        an answer, its head, is sent with the next one.
        """
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
        """Sends a head that nothing follows."""
        if self._head:
            self.sendall(b"")

    def send(self, data: bytes) -> int:
        """At once: `100 Continue`, which is no answer."""
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
            raise BrokenPipeError(errno.EPIPE, "Too many answers are not taken by their clients.")
        try:
            at = 0
            while at < len(rest):
                self._expect_progress()
                at += self._client.send(rest[at:])
        except cancel_wait_ex:  # `end_if_late`
            raise BrokenPipeError(errno.EPIPE, "The client does not take its answer.") from None
        finally:
            self._budget.give_back(len(rest))
        self.late_at = math.inf

    def _begin_to_send(self, count: int) -> None:
        self._answer_began_at = self._answer_began_at if self._sent else monotonic()
        self._sent += count

    def _expect_progress(self) -> None:
        self.late_at = monotonic() + WRITE_SECONDS
        self._queued = self._in_the_system()

    def _takes_enough(self, now: float) -> bool:
        """Also of what the system has taken over: it says that there is room again only when a
        third of that has gone, which may be more than a MiB.
        """
        before, self._queued = self._queued, self._in_the_system()
        self.late_at = now + WRITE_SECONDS
        whole_by = self._answer_began_at + WRITE_SECONDS + self._sent / SLOWEST_BYTES_PER_SECOND
        return now < whole_by and before - self._queued >= WRITE_SECONDS * SLOWEST_BYTES_PER_SECOND

    def _in_the_system(self) -> int:
        """How many bytes were sent that the client has not confirmed."""
        count: int
        (count,) = struct.unpack(
            "i", fcntl.ioctl(self._client.fileno(), termios.TIOCOUTQ, bytes(4))
        )
        return count

    def close(self) -> None:
        """Half closes, reads what still comes for a moment, and closes."""
        with contextlib.suppress(OSError):
            self.flush()
        self.release()
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
        except (
            cancel_wait_ex
        ):  # the wait was ended from here; what came in the same moment is still there
            return bytes(self._client.recv(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
