"""Writes lines to a descriptor, and never waits for it: nobody may read what we say, and nobody is to wait for that.

A terminal is stopped with Ctrl-S, a pipe's reader hangs: then a plain write blocks, and with it whoever writes. Here a
line goes out whole, or waits among at most `MAX_WAITING` others for the next call; what finds no room is counted, and
the count is told when lines go out again.

O_NONBLOCK belongs to what is open, not to the descriptor: set on one that is inherited, it would fall upon the shell
and every other process that shares it. So a pipe or a terminal is opened anew for each line, which costs a few
microseconds, and leaves nothing that a fork, or a flow that closes descriptors, could turn into something else. It
needs no thread, lock or event loop, so it is the same under threads, greenlets and asyncio.
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
"""As much as a pipe takes as a whole, also where other processes write to it."""

MAX_WAITING = 1000
"""Lines, for each process."""

PATIENCE_SECONDS = 0.5

_libc = ctypes.CDLL(None)
_OPEN = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Sink:
    """Lines for one descriptor. Calls from several threads need a lock of the caller's around them."""

    def __init__(self, descriptor: int, tell_dropped: Callable[[int], bytes | None] = lambda _: None):
        self._descriptor, self._tell_dropped = descriptor, tell_dropped
        self._waiting: deque[bytes] = deque()
        self._process = os.getpid()
        self.dropped = 0

    def write(self, line: bytes) -> bool:
        """Writes it, or keeps it for the next call; False where there was no room. It ends with a line break."""
        if self._process != os.getpid():  # what waited at the fork is the parent's to write
            self._process, self.dropped = os.getpid(), 0
            self._waiting.clear()
        self.flush()
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return False
        self._waiting.append(line)
        self.flush()
        return True

    def flush(self) -> bool:
        """Writes what waits, as far as it is taken; True where nothing waits any more."""
        while self._waiting:
            line = self._waiting.popleft()
            written = write_now(self._descriptor, line)
            if written < len(line):
                self._waiting.appendleft(line[written:])
                return False
            if self.dropped and (remark := self._tell_dropped(self.dropped)):
                self._waiting.appendleft(remark)
                self.dropped = 0
        return True


def write_now(descriptor: int, data: bytes) -> int:
    """How many bytes were taken at once. A pipe takes all of up to `MAX_LINE_BYTES`, or nothing.

    What refuses for good (a full disk, a reader that is gone) takes nothing, too.
    """
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.write(descriptor, data)  # opened anew, it would begin at its beginning
        try:
            own = os.open(f"/proc/self/fd/{descriptor}", _OPEN)
        except OSError:  # a socket (of systemd's journal), another user's pipe, no /proc, no descriptor left
            return os.write(descriptor, data) if is_writable(descriptor) else 0
        try:
            return os.write(own, data)
        finally:
            os.close(own)
    except OSError:
        return 0


class PrintStream(io.RawIOBase):
    """Where a flow's `print` goes: to its descriptor, but not for longer than that takes it.

    A reader that is slow is waited for, `PATIENCE_SECONDS` at a time; one that has let that pass is waited for no
    more until it reads again. What is not taken is dropped.
    """

    def __init__(self, descriptor: int):
        self._descriptor, self._is_read = descriptor, True
        self.name = f"<descriptor {descriptor}>"

    def text(self) -> io.TextIOWrapper:
        """As `sys.stdout` is, but that each line goes out at once."""
        buffered = io.BufferedWriter(self, MAX_LINE_BYTES)
        return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", line_buffering=True)

    def write(self, data: Buffer) -> int:
        """Says always that all was written: whoever prints can do nothing about it."""
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
    """Whether a write of up to `MAX_LINE_BYTES` would not block, within this time.

    (The C library's `poll`: Python's is replaced by gevent with one that may switch to another greenlet.)
    """
    asked = _PollFd(descriptor, select.POLLOUT, 0)
    ready = _libc.poll(ctypes.byref(asked), 1, int(seconds * 1000))
    return ready == 1 and bool(asked.revents & select.POLLOUT)
