"""Encodes and reads the messages between a worker and its child processes.

`child_process` is the worker's end of the socket pair, `ChildSocket` the child's. A message is a
head (a small JSON object with a `kind`) and a body of bytes that is passed on unread: the request
on its way down, the outputs on their way up. On the wire: both lengths, head, body.

    worker -> child   start {token, id, names, ...} + data, steps
                      stop {token}               the flow must end
                      stored {token, number}     the store has this checkpoint
                      listen {token}             somebody follows the execution
                      alive {number}             a question: do you answer?

    child -> worker   ready {pid, stacks}
                      alive {number}             the answer
                      progress {token, progress} | used {token, usage} | counted {counts}
                      events {token} + events, one a line: see `live_reports`
                      checkpoint {token, number, ...} + outputs
                      ended {token, outcome, ...} + outputs
                      unstarted {token, reason}  nothing of it ran
                      held {id, at}              this execution blocks the event loop

`token` is the attempt's wire key, that is the execution's id and the fencing token: one process may
hold an old and a new attempt of the same execution. If a body has several parts, `join` puts them
together, and their lengths are in the head.
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
"""Encoding this many values takes about a millisecond."""

Head = dict[str, Any]


def encode(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """Returns a message as it goes over the wire."""
    # In several steps, so that another thread can take over between them.
    text = (
        "{" + ",".join(f"{json.dumps(name)}:{_json(value)}" for name, value in head.items()) + "}"
    )
    return b"".join((_LENGTHS.pack(len(text), len(body)), text.encode(), body))


def _json(value: Any) -> str:
    """Encodes a long list in pieces: `json.dumps` holds the interpreter until it is done."""
    if not isinstance(value, list) or len(value) <= _PIECE_VALUES:
        return json.dumps(value, separators=(",", ":"))
    starts = range(0, len(value), _PIECE_VALUES)
    pieces = (
        json.dumps(value[at : at + _PIECE_VALUES], separators=(",", ":"))[1:-1] for at in starts
    )
    return f"[{','.join(pieces)}]"


def join(parts: Iterable[bytes]) -> tuple[list[int], bytes]:
    """Returns the lengths of the parts, and one body that holds them all."""
    listed = list(parts)
    return [len(part) for part in listed], b"".join(listed)


def split(lengths: Iterable[int], body: bytes) -> list[bytes]:
    """Returns the parts of a body that `join` made."""
    parts, start = [], 0
    for length in lengths:
        parts.append(body[start : start + length])
        start += length
    return parts


class Messages:
    """Turns the bytes that arrive into messages. For either end."""

    def __init__(self) -> None:
        self._arrived = bytearray()

    def feed(self, data: bytes) -> None:
        """Adds bytes that arrived: a part of a message, or many messages."""
        self._arrived += data

    def take(self) -> tuple[Head, bytes] | None:
        """Returns the next message, or None if it is not complete. Raises `ValueError` for bytes
        that are no message.
        """
        if len(self._arrived) < _LENGTHS.size:
            return None
        head_bytes, body_bytes = _LENGTHS.unpack_from(self._arrived)
        body_at = _LENGTHS.size + head_bytes
        if len(self._arrived) < body_at + body_bytes:
            return None
        head = json.loads(self._arrived[_LENGTHS.size : body_at])
        if not isinstance(head, dict):
            raise ValueError("The head of a message must be a JSON object.")
        # A slice of a bytearray would be a second copy of what may be many megabytes.
        with memoryview(self._arrived) as arrived:
            body = bytes(arrived[body_at : body_at + body_bytes])
        del self._arrived[: body_at + body_bytes]
        return head, body


class ChildSocket:
    """The child's end, a blocking socket. Any thread may call `send`, but only one `receive`."""

    def __init__(self, end: socket.socket):
        self._socket = end
        self._messages = Messages()
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def send(self, head: Head, body: bytes = b"") -> None:
        """Sends a message, whole. Raises `OSError` if the worker is gone."""
        message = encode(head, body)
        with self._sending:
            self._socket.sendall(message)

    def receive(self, silence_seconds: float) -> tuple[Head, bytes]:
        """Waits for the next message. Raises `EOFError` if the worker is gone, or was silent for
        `silence_seconds`.
        """
        while not (message := self._messages.take()):
            if not self._poll.poll(silence_seconds * 1000):
                raise EOFError
            data = self._socket.recv(_PIECE_BYTES)
            if not data:
                raise EOFError
            self._messages.feed(data)
        return message
