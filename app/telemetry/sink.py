"""Writes lines to a file descriptor without ever waiting for its reader.

`app.telemetry.logs` writes log lines with it, `tools.run` its messages, and the worker's children
what a flow prints. A terminal stops at Ctrl-S and a pipe's reader may hang; then a plain write
blocks, and its caller with it. A `Sink` writes a line as a whole or keeps it for the next call,
together with at most `MAX_WAITING` others. Lines that find no room are counted, and the count is
reported later.

O_NONBLOCK belongs to the open file, not to the descriptor. Set on an inherited descriptor, it would
change the shell and every other process that shares the file. So a pipe or a terminal is opened
again for each line. This costs a few microseconds, and leaves no descriptor open that a fork, or a
flow that closes descriptors, could turn into another file. It needs no thread, lock or event loop,
so it works the same with threads, greenlets and asyncio.
"""

from __future__ import annotations

import ctypes
import io
import os
import select
import stat
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

MAX_LINE_BYTES = select.PIPE_BUF
"""The longest line that a pipe takes as a whole, even if other processes write to it."""

MAX_WAITING = 1000
"""Lines that wait in one process: at most about 4 MB."""

PATIENCE_SECONDS = 0.5
"""How long a `print` waits for a reader that is slow."""

_libc = ctypes.CDLL(None)

# O_NOCTTY: a terminal that is opened must not become the process's controlling terminal.
_OPEN = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Sink:
    """Writes lines to one descriptor. It is not thread-safe: the caller holds a lock.

    `tell_dropped` returns a line that reports this many dropped lines, or None to report nothing.
    """

    def __init__(
        self, descriptor: int, tell_dropped: Callable[[int], bytes | None] = lambda _: None
    ):
        self._descriptor = descriptor
        self._tell_dropped = tell_dropped
        self._waiting: deque[bytes] = deque()
        self._process = os.getpid()
        self.dropped = 0

    def write(self, line: bytes) -> bool:
        """Writes or keeps a line, which ends with a line break. Returns False if it is dropped."""
        if self._process != os.getpid():
            # After a fork: the parent writes the lines that waited, so the child forgets them.
            self._process = os.getpid()
            self.dropped = 0
            self._waiting.clear()
        self.flush()
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return False
        self._waiting.append(line)
        self.flush()
        return True

    def flush(self) -> bool:
        """Writes the lines that wait, as far as they are taken; returns True if none is left."""
        while self._waiting:
            line = self._waiting.popleft()
            written = write_now(self._descriptor, line)
            if written < len(line):
                # A terminal or a socket may take a part of a line.
                self._waiting.appendleft(line[written:])
                return False
            if self.dropped and (remark := self._tell_dropped(self.dropped)):
                self._waiting.appendleft(remark)
                self.dropped = 0
        return True


def write_now(descriptor: int, data: bytes) -> int:
    """Returns how many bytes were written at once. A pipe takes up to `MAX_LINE_BYTES`, or nothing.

    A descriptor that fails for good (a full disk, a closed pipe) also returns 0: a log that cannot
    be written must not stop the service.
    """
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            # Opened again, a regular file would be written from its beginning.
            return os.write(descriptor, data)
        try:
            own = os.open(f"/proc/self/fd/{descriptor}", _OPEN)
        except OSError:
            # A socket (systemd's journal), another user's pipe, no /proc, no free descriptor.
            return os.write(descriptor, data) if is_writable(descriptor) else 0
        try:
            return os.write(own, data)
        finally:
            os.close(own)
    except OSError:
        return 0


class PrintStream(io.RawIOBase):
    """A replacement for `sys.stdout`, so that a flow's `print` does not hang with its reader.

    A write waits up to `PATIENCE_SECONDS` for a slow reader. If that was not enough, later writes
    do not wait until the reader takes something again. What is not taken is dropped.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._is_read = True
        self.name = f"<descriptor {descriptor}>"

    def text(self) -> io.TextIOWrapper:
        """Returns a text stream like `sys.stdout` that writes each line at once."""
        buffered = io.BufferedWriter(self, MAX_LINE_BYTES)
        return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", line_buffering=True)

    def write(self, data: Buffer) -> int:
        """Writes what is taken in time; always returns the full length."""
        rest = memoryview(data)
        total = len(rest)
        while rest:
            piece = bytes(rest[:MAX_LINE_BYTES])
            written = write_now(self._descriptor, piece)
            if not written and self._is_read and is_writable(self._descriptor, PATIENCE_SECONDS):
                written = write_now(self._descriptor, piece)
            self._is_read = written > 0
            if not self._is_read:
                break
            rest = rest[written:]
        # Less would make `print` raise, in a flow that can do nothing about it.
        return total

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def is_writable(descriptor: int, seconds: float = 0) -> bool:
    """Returns whether a write of up to `MAX_LINE_BYTES` is possible within this time."""
    # The C library's `poll`: gevent replaces Python's with one that may switch to another greenlet,
    # and a log call must not be a place where the caller is interrupted.
    asked = _PollFd(descriptor, select.POLLOUT, 0)
    ready = _libc.poll(ctypes.byref(asked), 1, int(seconds * 1000))
    return ready == 1 and bool(asked.revents & select.POLLOUT)
