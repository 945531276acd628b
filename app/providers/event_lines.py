"""Cuts a body of Server-Sent Events into events while it arrives.

`stream.py` feeds it the pieces of a model's streamed answer. Servers break the rules of the format:
a blank line between two events may be missing, and so may the space behind `data:`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple


class ServerEvent(NamedTuple):
    """One event. `name` is empty if the server gave none."""

    name: str
    data: bytes


class EventLines:
    """Feed it pieces in their order; `flush` yields what the end of the body leaves over."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_return = False
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """How much is kept of an event that is not complete."""
        return len(self._line) + self._data_bytes

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Yields the events that this piece completes."""
        if self._after_return:
            piece = piece.removeprefix(b"\n")  # the second half of a line's end
        self._after_return = piece.endswith(b"\r")
        for part in piece.splitlines(keepends=True):
            self._line += part
            if part.endswith((b"\n", b"\r")):
                line = bytes(self._line.rstrip(b"\r\n"))
                self._line.clear()
                yield from self._read(line)

    def flush(self) -> Iterator[ServerEvent]:
        """Yields the last event, if the body ended without a blank line."""
        line = bytes(self._line)
        self._line.clear()
        yield from self._read(line)
        yield from self._dispatch()

    def _read(self, line: bytes) -> Iterator[ServerEvent]:
        field, _, value = line.removeprefix(b"\xef\xbb\xbf").partition(b":")
        value = value.removeprefix(b" ")
        if not line or field == b"event" or (field == b"data" and self._has_whole_data()):
            yield from self._dispatch()
        if field == b"event":
            self._name = value.decode(errors="replace").strip()
        elif field == b"data":
            self._data.append(value)
            self._data_bytes += len(value)

    def _has_whole_data(self) -> bool:
        """Whether the data before this line is an event of its own, without a blank line behind it.

        Only the first line is tried: to parse longer and longer data would take ever more time.
        """
        if len(self._data) != 1:
            return False
        try:
            json.loads(self._data[0])
        except (ValueError, RecursionError):
            return self._data[0].strip() == b"[DONE]"
        return True

    def _dispatch(self) -> Iterator[ServerEvent]:
        event = ServerEvent(self._name, b"\n".join(self._data).strip())
        self._name, self._data, self._data_bytes = "", [], 0
        if event.data:
            yield event
