"""The messages between a worker and its child processes, over one socket pair each.

A message is a head (a small JSON object with a `kind`) and a body of bytes that is passed on unread:
the job's data on its way down, the outputs on their way up. On the wire: both lengths, head, body.

    worker -> child   start {token, id, attempt, ...} + data, steps | stop {token} | stored {token, number} | alive {}
    child  -> worker  ready {} | progress {token, progress} | used {token, usage}
                      checkpoint {token, number, ...} + outputs | ended {token, outcome, ...} + outputs

The token is that of the attempt: one process may hold an old attempt and a new one of the same execution.
Where a body has several parts, `join` puts them together, and their lengths stand in the head.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from asyncio import StreamReader
from collections.abc import Iterable
from typing import Any

_LENGTHS = struct.Struct("!II")

Head = dict[str, Any]


def encode(head: Head, body: bytes = b"") -> bytes:
    """A message as it goes over the wire."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(text), len(body)) + text + body


def join(parts: Iterable[bytes]) -> tuple[list[int], bytes]:
    """The lengths of the parts, and the body that holds them."""
    every = list(parts)
    return [len(part) for part in every], b"".join(every)


def split(lengths: Iterable[int], body: bytes) -> list[bytes]:
    """Undoes `join`."""
    parts, start = [], 0
    for length in lengths:
        parts.append(body[start : start + length])
        start += length
    return parts


async def receive(reader: StreamReader) -> tuple[Head, bytes]:
    """The next message. Raises `IncompleteReadError` at the end of the stream."""
    head_bytes, body_bytes = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    head = json.loads(await reader.readexactly(head_bytes))
    return head, await reader.readexactly(body_bytes) if body_bytes else b""


class ChildSocket:
    """The child's end, a blocking socket. `send` may be called from any thread; `receive` from one."""

    def __init__(self, end: socket.socket):
        self._socket = end
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def send(self, head: Head, body: bytes = b"") -> None:
        """Raises `OSError` when the worker is gone."""
        message = encode(head, body)
        with self._sending:
            self._socket.sendall(message)

    def receive(self, silence_seconds: float) -> tuple[Head, bytes]:
        """The next message. Raises `EOFError` when the worker is gone, or said nothing for so long."""
        if not self._poll.poll(silence_seconds * 1000):
            raise EOFError
        head_bytes, body_bytes = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        return json.loads(self._exactly(head_bytes)), self._exactly(body_bytes)

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)
