"""Resets standard input, output and error after each run. Used by `cleanup` and `child`.

A flow may close, replace or redirect them: that ends with its run, and never costs a log line.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from app.telemetry import logs
from app.telemetry.sink import PrintStream
from app.worker.flow_lines import STREAMS, FlowLines
from app.worker.output_pipes import private_copy

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class Streams:
    """Copies the three descriptors when it is made, so that they can be reset later."""

    def __init__(self) -> None:
        self._copies = {number: private_copy(number) for number in (0, 1, 2)}
        self._blocking = {number: os.get_blocking(number) for number in self._copies}
        self._prints: dict[int, FlowPrints] = {}

    def put_back(self) -> None:
        """Resets all three, descriptors and objects. Writes what a flow has printed first."""
        self.put_back_descriptors()
        self.end_lines()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a flow may have put anything there
                stream.flush()
        reader = open(0, closefd=False)  # noqa: SIM115
        for name, stream in (
            ("stdin", reader),
            ("stdout", self._writer(1)),
            ("stderr", self._writer(2)),
        ):
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

    def end_lines(self) -> None:
        """Logs what the present run has printed without a line break at its end."""
        for prints in list(self._prints.values()):
            prints.end_line()

    def _writer(self, number: int) -> io.TextIOWrapper:
        """Returns a stream for what flows print. Closing it leaves the descriptor open."""
        self._prints[number] = prints = FlowPrints(number)
        return prints.text()

    def repair(self) -> None:
        """Replaces closed streams only: other flows may be using those that work."""
        self.put_back_descriptors()
        for name, number in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name, None)
            if stream is None or getattr(stream, "closed", False):
                setattr(sys, name, self._writer(number))

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


class FlowPrints(PrintStream):
    """What Python code prints, as lines of the log with the names of the run that printed them.

    The names come from the context of the thread or task, so a thread that a flow starts by itself
    has none. What is written to the descriptor itself, as by programs that a flow starts, goes into
    a pipe: see `output_pipes`.
    """

    def __init__(self, descriptor: int):
        super().__init__(descriptor)
        self._lines = FlowLines(STREAMS[descriptor])

    def text(self) -> io.TextIOWrapper:
        # Unbuffered: a buffer would mix what several runs print.
        stream: Any = self
        return io.TextIOWrapper(stream, "utf-8", "backslashreplace", write_through=True)

    def write(self, data: Buffer) -> int:
        """Logs the complete lines, and keeps the rest until its line ends."""
        self._lines.add(bytes(data), logs.present_run())
        return memoryview(data).nbytes

    def end_line(self) -> None:
        """Logs what the present run has printed without a line break at its end."""
        self._lines.end(logs.present_run())
