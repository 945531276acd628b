"""Logs what flows and their programs write to the descriptors 1 and 2 themselves.

Python's `print` in a flow does not come here: `cleanup.streams` logs it. What a library in C or a
program that a flow starts writes goes into a pipe for each of the two descriptors. The keeper of
the child reads both (see `forkserver`), not the child: a library that writes while it holds the
interpreter would wait for ever for a reader in its own process, and what a process has written
before it is killed must not be lost with it.

The child tells the keeper which run begins and ends, over a socket pair.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
from collections.abc import Mapping
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

_END = b"{}"


def private_copy(number: int) -> int:
    """Returns a copy of a descriptor that no program inherits."""
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, PRIVATE_FROM)


class OutputPipes:
    """The pipes and the socket pair of one child. Made in its keeper, before that forks."""

    def __init__(self) -> None:
        self._pipes = {number: os.pipe() for number in STREAMS}
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def take_over(self) -> RunNames:
        """Makes the pipes the descriptors 1 and 2 of the process that runs flows."""
        self._ours.close()
        for number, (reading, writing) in self._pipes.items():
            os.dup2(writing, number)
            os.close(writing)
            os.close(reading)
        with self._theirs:
            return RunNames(socket.socket(fileno=private_copy(self._theirs.fileno())))

    def follow(self, pid: int) -> int:
        """Logs what arrives until that process is dead. Returns its status, as `waitpid` does.

        It does not wait for the ends of the pipes: what the flow left behind may hold them open.
        """
        self._theirs.close()
        for _, writing in self._pipes.values():
            os.close(writing)
        reader = _Reader({number: pipe[0] for number, pipe in self._pipes.items()}, self._ours)
        reader.run(os.pidfd_open(pid))
        _, status = os.waitpid(pid, 0)
        return status


class RunNames:
    """The child's end: tells the keeper whose output it reads."""

    def __init__(self, keeper: socket.socket):
        self._keeper = keeper
        self._answered = select.poll()
        self._answered.register(keeper, select.POLLIN)

    def begin(self, names: Mapping[str, Any]) -> None:
        """Gives these names to everything that is written from now on."""
        with contextlib.suppress(OSError):  # `end` notices a keeper that does not read
            self._keeper.send(json.dumps(names).encode(), socket.MSG_DONTWAIT)

    def end(self) -> bool:
        """Returns when all that was written is logged; False if the keeper does not answer. The
        names could then get to the lines of another run.
        """
        try:
            self._keeper.send(_END, socket.MSG_DONTWAIT)
            for _ in range(END_TRIES):
                if self._answered.poll(END_TRY_SECONDS * 1000):
                    return bool(self._keeper.recv(16))
        except OSError:
            pass
        return False


class _Reader:
    """The keeper's end."""

    def __init__(self, pipes: Mapping[int, int], child: socket.socket):
        self._pipes, self._child = dict(pipes), child
        self._lines = {number: FlowLines(stream) for number, stream in STREAMS.items()}
        self._names: dict[str, Any] = {}
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
        # The message is read after the output. So output of a run is never read before the message
        # that the run begins, which was sent before anything was written.
        arrived = {number: self._take(number) for number in list(self._pipes)}
        message = self._message()
        if message:
            self._names = message
        for number, data in arrived.items():
            self._log(number, data)
        if message == {}:
            self._end_run()
            with contextlib.suppress(OSError):
                self._child.send(b"logged")

    def _message(self) -> dict[str, Any] | None:
        """Returns the names of a run that begins, `{}` for an end, None if there is no message."""
        try:
            message = self._child.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            message = b""
        if not message:  # the other end is closed
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._child)
            return None
        try:
            names = json.loads(message)
        except ValueError:
            return None
        return names if isinstance(names, dict) else None

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
        self._names = {}

    def _log(self, number: int, data: bytes) -> None:
        if data:
            with structlog.contextvars.bound_contextvars(**self._names):
                self._lines[number].add(data, "")

    def _end_lines(self) -> None:
        with structlog.contextvars.bound_contextvars(**self._names):
            for lines in self._lines.values():
                lines.end("")
