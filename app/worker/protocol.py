"""The messages between a worker and its child processes, over one socket pair each.

A message is a head (a small JSON object with a `kind`) and a body of bytes that is passed on
unread: the job's data on its way down, the outputs on their way up. On the wire: both lengths,
head, body.

    worker -> child   start {token, id, names, ...} + data, steps | stop {token} | stored {token, number}
                      alive {number}
    child  -> worker  ready {pid, stacks} | progress {token, progress} | used {token, usage} | counted {counts}
                      alive {number} | checkpoint {token, number, ...} + outputs | ended {token, outcome, ...} + outputs
                      unstarted {token, reason}: nothing of it ran

`token` is the attempt's wire key, its execution's id and its fencing token: one process may hold an
old attempt and a new one of the same execution. If a body has several parts, `join` puts them
together, and their lengths stand in the head.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from typing import Any

_LENGTHS = struct.Struct("!II")
_PIECE_BYTES = 256 * 1024
_PIECE_VALUES = 2000

Head = dict[str, Any]


def encode(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """A message as it goes over the wire. Made in steps, so that in a thread it holds up no other
    one.
    """
    text = (
        "{" + ",".join(f"{json.dumps(name)}:{_json(value)}" for name, value in head.items()) + "}"
    )
    return b"".join((_LENGTHS.pack(len(text), len(body)), text.encode(), body))


def _json(value: Any) -> str:
    """JSON is written without a pause for other threads, so a long list is written in pieces."""
    if not isinstance(value, list) or len(value) <= _PIECE_VALUES:
        return json.dumps(value, separators=(",", ":"))
    starts = range(0, len(value), _PIECE_VALUES)
    pieces = (
        json.dumps(value[at : at + _PIECE_VALUES], separators=(",", ":"))[1:-1] for at in starts
    )
    return f"[{','.join(pieces)}]"


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


class Messages:
    """What has arrived, as messages."""

    def __init__(self) -> None:
        self._arrived = bytearray()

    def feed(self, data: bytes) -> None:
        """More has arrived: any part of one message, or of many."""
        self._arrived += data

    def take(self) -> tuple[Head, bytes] | None:
        """The next message; None if it is not all there. Raises `ValueError` for what is none."""
        if len(self._arrived) < _LENGTHS.size:
            return None
        head_bytes, body_bytes = _LENGTHS.unpack_from(self._arrived)
        body_at = _LENGTHS.size + head_bytes
        if len(self._arrived) < body_at + body_bytes:
            return None
        head = json.loads(self._arrived[_LENGTHS.size : body_at])
        if not isinstance(head, dict):
            raise ValueError("A message's head is a JSON object.")
        with memoryview(self._arrived) as arrived:
            body = bytes(arrived[body_at : body_at + body_bytes])
        del self._arrived[: body_at + body_bytes]
        return head, body


class ChildSocket:
    """The child's end, a blocking socket. `send` may be called from any thread; `receive` from one."""

    def __init__(self, end: socket.socket):
        self._socket = end
        self._messages = Messages()
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
        while not (message := self._messages.take()):
            if not self._poll.poll(silence_seconds * 1000):
                raise EOFError
            data = self._socket.recv(_PIECE_BYTES)
            if not data:
                raise EOFError
            self._messages.feed(data)
        return message
