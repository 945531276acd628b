"""Resets standard input, output and error after each run. Used by `cleanup` and `child`.

A flow may close, replace or redirect them: that ends with its run, and never costs a log line.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys

from app.telemetry.sink import PrintStream

_PRIVATE_FROM = 64
"""The lowest number of a copy: programs that daemonize close the first few descriptors."""


class Streams:
    """Copies the three descriptors when it is made, so that they can be reset later."""

    def __init__(self) -> None:
        self._copies = {
            number: fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_FROM)
            for number in (0, 1, 2)
        }
        self._blocking = {number: os.get_blocking(number) for number in self._copies}

    @property
    def log_descriptor(self) -> int:
        """A copy of standard output, for the log."""
        return self._copies[1]

    def put_back(self) -> None:
        """Resets all three, descriptors and objects. Writes what a flow has printed first."""
        self.put_back_descriptors()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a flow may have put anything there
                stream.flush()
        reader = open(0, closefd=False)  # noqa: SIM115
        for name, stream in (("stdin", reader), ("stdout", _writer(1)), ("stderr", _writer(2))):
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

    def repair(self) -> None:
        """Replaces closed streams only: other flows may be using those that work."""
        self.put_back_descriptors()
        for name, number in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name, None)
            if stream is None or getattr(stream, "closed", False):
                setattr(sys, name, _writer(number))

    def put_back_descriptors(self) -> None:
        """Resets descriptors that were closed or redirected."""
        for number, copy in self._copies.items():
            if not _is_the_same(number, copy):
                os.dup2(copy, number)
            if os.get_blocking(number) != self._blocking[number]:
                os.set_blocking(number, self._blocking[number])


def _is_the_same(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


def _writer(number: int) -> io.TextIOWrapper:
    """Returns a stream that writes each line at once. Closing it leaves the descriptor open."""
    return PrintStream(number).text()
