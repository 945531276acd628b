"""Logs what flows write, line by line, within bounds. Used by `cleanup.streams` for what Python
code prints, and by `output_pipes` for what arrives at the descriptors.
"""

from __future__ import annotations

import threading
import time

from app.telemetry import logs
from app.telemetry.masking import READ_FACTOR

STREAMS = {1: "stdout", 2: "stderr"}
"""The descriptors of what flows write."""

MAX_PRINT_BYTES = 4096
"""Of a line without an end. A longer one is logged in pieces."""

MAX_PRINTS_PER_SECOND = 2000
"""Lines of one stream. The others are counted."""

MAX_RESTS = 10_000
"""Unfinished lines at once: one for each thread of each run."""


class FlowLines:
    """Makes lines of the bytes of one stream (`stdout` or `stderr`), and logs them.

    They get the names of the run whose context the caller is in. `run` tells apart the unfinished
    lines of several runs. So does the thread: `print` writes a text and its line break separately,
    and those of another thread may come between them.
    """

    def __init__(self, stream: str):
        self._stream = stream
        self._rests: dict[tuple[str, int], bytes] = {}
        self._second, self._lines, self._left_out = 0, 0, 0

    def add(self, data: bytes, run: str) -> None:
        """Logs the complete lines, and keeps the rest until its line ends."""
        key = run, threading.get_ident()
        text = self._rests.pop(key, b"") + data
        if self._is_full():
            # In a flood: to count the lines is far cheaper than to split them.
            self._left_out += text.count(b"\n")
            text = text[text.rfind(b"\n") + 1 :]
        *lines, rest = text.split(b"\n")
        if len(rest) > MAX_PRINT_BYTES or len(self._rests) > MAX_RESTS:
            lines.append(rest)
        elif rest:
            self._rests[key] = rest
        for line in lines:
            self._log(line)

    def end(self, run: str) -> None:
        """Logs the run's unfinished lines, and how many lines were left out."""
        for key in [key for key in list(self._rests) if key[0] == run]:
            self._log(self._rests.pop(key, b""))
        left_out, self._left_out = self._left_out, 0
        if left_out:
            logs.write_print(self._stream, f"[{left_out} printed lines were left out]")

    @property
    def is_unfinished(self) -> bool:
        """Whether `end` would log something."""
        return bool(self._rests or self._left_out)

    def _is_full(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        return self._lines >= MAX_PRINTS_PER_SECOND

    def _log(self, line: bytes) -> None:
        if not line.strip():
            return
        if self._is_full():
            self._left_out += 1
            return
        text = line[: MAX_PRINT_BYTES * READ_FACTOR].decode(errors="replace").rstrip("\r")
        self._lines += 1
        logs.write_print(self._stream, text)
