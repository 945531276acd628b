"""Standard input, output and errors: a flow has its own objects, and what it does to them ends with
its run.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys

from app.telemetry.sink import PrintStream

_PRIVATE_FROM = 64
"""The numbers of the copies, out of the way of programs that close the first few."""


class Streams:
    """Copies the three descriptors at birth, so that they can be put back whatever a flow does to
    them.
    """

    def __init__(self) -> None:
        self._copies = {
            number: fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_FROM)
            for number in (0, 1, 2)
        }
        self._blocking = {number: os.get_blocking(number) for number in self._copies}

    @property
    def log_descriptor(self) -> int:
        """A copy of the standard output: what a flow does to the streams never costs a log line."""
        return self._copies[1]

    def put_back(self) -> None:
        """Sets up all three anew, descriptors and objects. What a flow has printed is written
        before.
        """
        self.put_back_descriptors()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # it may be anything that a flow has put there
                stream.flush()
        reader = open(0, closefd=False)  # noqa: SIM115
        for name, stream in (("stdin", reader), ("stdout", _writer(1)), ("stderr", _writer(2))):
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

    def repair(self) -> None:
        """Beside other flows: mends what is closed, and leaves what works to those who work with
        it.
        """
        self.put_back_descriptors()
        for name, number in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name, None)
            if stream is None or getattr(stream, "closed", False):
                setattr(sys, name, _writer(number))

    def put_back_descriptors(self) -> None:
        """Descriptors that were closed, or lead elsewhere, lead where they did at birth."""
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
    """A stream whose `close` does not close the descriptor. Each line is written at once, and waits
    for nobody.
    """
    return PrintStream(number).text()
