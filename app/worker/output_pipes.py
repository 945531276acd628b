"""Logs what flows and their programs write to the descriptors 1 and 2 themselves.

Python's `print` in a flow does not come here: `cleanup.streams` logs it. What a library in C or a
program that a flow starts writes goes into a pipe for each of the two descriptors. The keeper of
the child reads both (see `forkserver`), not the child: a library that writes while it holds the
interpreter would wait for ever for a reader in its own process, and what a process has written
before it is killed must not be lost with it.

The names of the present run are in memory that both share. At the end of a run that wrote
something, the child asks the keeper, over a socket pair, to log what is left. A run that wrote
nothing, as most do, does not wake the keeper: that would take a fifth of the time of a short run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import termios
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from app.telemetry import logs
from app.worker.flow_lines import STREAMS, FlowLines

PRIVATE_FROM = 64
"""The lowest number of a descriptor that is the service's own: programs that daemonize close the
first few.
"""

IDLE_SECONDS = 1.0
"""An unfinished line is logged when nothing has been written for so long: it may be the last one of
a flow that hangs.
"""

END_TRIES = 10
END_TRY_SECONDS = 0.5
"""How long the end of a run waits until the keeper has logged everything. It takes far less than a
millisecond; only a keeper that a flow has stopped does not answer. It is several short waits, as
the time in which a worker without its store freezes both must not count.
"""

_READ_BYTES = 64 * 1024
"""The size of a pipe."""

_MAX_READS = 17
"""Reads at the end of a run. A flow may have enlarged its pipe to a MiB, and a program that it
failed to end may go on writing.
"""

_END = b"end"

_SHARED_BYTES = 64 * 1024
_LENGTH = struct.Struct("I")


def private_copy(number: int) -> int:
    """Returns a copy of a descriptor that no program inherits."""
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, PRIVATE_FROM)


class _Shared:
    """Memory of the keeper and the child. No lock: each field has one writer, and the child changes
    the names only while nothing is `unlogged`.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SHARED_BYTES)

    @property
    def unlogged(self) -> bool:
        """Whether the keeper has read something that it has not logged completely."""
        return self._memory[0] != 0

    @unlogged.setter
    def unlogged(self, value: bool) -> None:
        self._memory[0] = value

    @property
    def names(self) -> dict[str, Any]:
        """The names of the present run; none between two runs."""
        (length,) = _LENGTH.unpack_from(self._memory, 1)
        start = 1 + _LENGTH.size
        try:
            names = json.loads(self._memory[start : start + length])
        except ValueError:  # none; or they change while a program writes that was left behind
            return {}
        return names if isinstance(names, dict) else {}

    @names.setter
    def names(self, value: Mapping[str, Any]) -> None:
        text = json.dumps(value).encode() if value else b""
        start = 1 + _LENGTH.size
        if len(text) > _SHARED_BYTES - start:  # they are ids, which are bounded
            text = b""
        self._memory[start : start + len(text)] = text
        _LENGTH.pack_into(self._memory, 1, len(text))


class OutputPipes:
    """The pipes and the socket pair of one child. Made in its keeper, before that forks."""

    def __init__(self) -> None:
        self._shared = _Shared()
        self._pipes = {number: os.pipe() for number in STREAMS}
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def take_over(self) -> RunNames:
        """Makes the pipes the descriptors 1 and 2 of the process that runs flows."""
        self._ours.close()
        pipes = []
        for number, (reading, writing) in self._pipes.items():
            os.dup2(writing, number)
            pipes.append(private_copy(writing))
            os.close(writing)
            os.close(reading)
        with self._theirs:
            keeper = socket.socket(fileno=private_copy(self._theirs.fileno()))
        return RunNames(keeper, pipes, self._shared)

    def follow(self, pid: int) -> int:
        """Logs what arrives until that process is dead. Returns its status, as `waitpid` does.

        It does not wait for the ends of the pipes: what the flow left behind may hold them open.
        """
        self._theirs.close()
        for _, writing in self._pipes.values():
            os.close(writing)
        pipes = {number: pipe[0] for number, pipe in self._pipes.items()}
        reader = _Reader(pipes, self._ours, self._shared)
        reader.run(os.pidfd_open(pid))
        _, status = os.waitpid(pid, 0)
        return status


class RunNames:
    """The child's end: tells the keeper whose output it reads."""

    def __init__(self, keeper: socket.socket, pipes: Sequence[int], shared: _Shared):
        self._keeper, self._pipes, self._shared = keeper, pipes, shared
        state = os.open(f"/proc/{os.getppid()}/stat", os.O_RDONLY)
        self._keeper_state = private_copy(state)
        os.close(state)
        self._answered = select.poll()
        self._answered.register(keeper, select.POLLIN)

    def begin(self, names: Mapping[str, Any]) -> None:
        """Gives these names to everything that is written from now on."""
        self._shared.names = names

    def end(self) -> bool:
        """Returns when all that was written is logged; False if the keeper does not answer. The
        names could then get to the lines of another run.
        """
        if not self._is_all_logged() and not self._has_keeper_logged():
            return False
        self._shared.names = {}
        return True

    def _is_all_logged(self) -> bool:
        """Whether nothing is left to log, as far as this process can see without the keeper."""
        try:
            # In this order: the keeper sets `unlogged` before it empties a pipe.
            is_left = any(map(_has_bytes, self._pipes)) or self._shared.unlogged
            return not is_left and not _is_stopped(os.pread(self._keeper_state, 512, 0))
        except OSError:  # the flow has closed them
            return False

    def _has_keeper_logged(self) -> bool:
        try:
            self._keeper.send(_END, socket.MSG_DONTWAIT)
            for _ in range(END_TRIES):
                if self._answered.poll(END_TRY_SECONDS * 1000):
                    return bool(self._keeper.recv(16))
        except OSError:
            pass
        return False


def _is_stopped(stat: bytes) -> bool:
    """Whether a process is stopped, by its `/proc/<pid>/stat`."""
    # The state comes after the name, which may hold spaces and parentheses.
    return stat.rpartition(b")")[2].lstrip()[:1] in (b"T", b"t")


def _has_bytes(pipe: int) -> bool:
    """Whether something in a pipe has not been read. Works at either end."""
    return any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(_LENGTH.size)))


class _Reader:
    """The keeper's end."""

    def __init__(self, pipes: Mapping[int, int], child: socket.socket, shared: _Shared):
        self._pipes, self._child, self._shared = dict(pipes), child, shared
        self._lines = {number: FlowLines(stream) for number, stream in STREAMS.items()}
        self._poll = select.poll()
        for descriptor in (*pipes.values(), child.fileno()):
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)

    def run(self, exited: int) -> None:
        """Reads until the process behind the pidfd `exited` is dead."""
        structlog.contextvars.clear_contextvars()
        self._poll.register(exited, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll(IDLE_SECONDS * 1000)]
            if ready:
                self._read()
            else:
                self._end_lines()
            if exited in ready:
                self._end_run()
                return
            logs.flush()

    def _read(self) -> None:
        self._shared.unlogged = True
        for number in list(self._pipes):
            self._log(number, self._take(number))
        if self._is_asked_to_end():
            self._end_run()
            with contextlib.suppress(OSError):
                self._child.send(b"logged")
        self._shared.unlogged = any(lines.is_unfinished for lines in self._lines.values())

    def _is_asked_to_end(self) -> bool:
        try:
            message = self._child.recv(len(_END))
        except BlockingIOError:
            return False
        except OSError:
            message = b""
        if not message:  # the other end is closed
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._child)
        return message == _END

    def _take(self, number: int) -> bytes:
        """Returns what is in a pipe now."""
        try:
            data = os.read(self._pipes[number], _READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:  # nobody has the other end any more
            self._poll.unregister(self._pipes[number])
            os.close(self._pipes.pop(number))
        return data

    def _end_run(self) -> None:
        """Logs all that was written up to now."""
        for number in list(self._pipes):
            for _ in range(_MAX_READS):
                data = self._take(number) if number in self._pipes else b""
                if not data:
                    break
                self._log(number, data)
        self._end_lines()

    def _log(self, number: int, data: bytes) -> None:
        if data:
            with structlog.contextvars.bound_contextvars(**self._shared.names):
                self._lines[number].add(data, "")

    def _end_lines(self) -> None:
        with structlog.contextvars.bound_contextvars(**self._shared.names):
            for lines in self._lines.values():
                lines.end("")
        self._shared.unlogged = False
