"""Reads Server-Sent Events as the HTML standard says, over a socket that a test controls."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_LINE_END = re.compile(r"\r\n|\r|\n")
ANSWER_SECONDS = 40.0


@dataclass(frozen=True)
class Sent:
    """One event as a browser's EventSource would report it, or a comment."""

    type: str
    data: str
    id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def parse(pieces: Iterable[bytes], comments: list[str] | None = None) -> Iterator[Sent]:
    """The events in a stream; notes its comments. Follows the steps of the standard."""
    parser = Parser(comments)
    for piece in pieces:
        yield from parser.feed(piece)


class Parser:
    """Keeps `last_id` and `retry`, as a client that reconnects needs them."""

    def __init__(self, comments: list[str] | None = None):
        self.comments = comments if comments is not None else []
        self.last_id = ""
        self.retry: int | None = None
        self._rest = b""
        self._type, self._data, self._id = "", list[str](), ""

    def feed(self, piece: bytes) -> Iterator[Sent]:
        self._rest += piece
        text = self._rest.decode("utf-8", "surrogateescape")
        *lines, rest = _LINE_END.split(text)
        if text.endswith("\r"):  # the line end may go on
            lines, rest = lines[:-1], f"{lines[-1]}\r"
        self._rest = rest.encode("utf-8", "surrogateescape")
        for line in lines:
            if sent := self._line(line):
                yield sent

    def _line(self, line: str) -> Sent | None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            return self._dispatch()
        if not name:
            self.comments.append(value)
        elif name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isdigit():
            self.retry = int(value)
        return None

    def _dispatch(self) -> Sent | None:
        self.last_id = self._id
        data, type = self._data, self._type
        self._data, self._type = [], ""
        return Sent(type or "message", "\n".join(data), self.last_id) if data else None


class Stream:
    """One connection to a stream. `with` closes it, at whatever point the test has reached."""

    def __init__(
        self,
        port: int,
        path: str,
        *headers: str,
        version: str = "HTTP/1.1",
        method: str = "GET",
        seconds: float = ANSWER_SECONDS,
    ):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        head = [f"{method} {path} {version}", "Host: localhost", *headers]
        self.socket.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
        self._raw, self._is_chunked = b"", False
        self.status, self.headers = 0, dict[str, str]()
        self.parser = Parser()
        self.is_complete = False  # the answer was ended properly, not cut off
        self._read_head()
        self._events = self._all()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def events(self) -> Iterator[Sent]:
        """The events until the stream ends. Raises `TimeoutError` if nothing comes for long.

        Every call returns the same iterator, so that none is lost between two of them.
        """
        return self._events

    def _all(self) -> Iterator[Sent]:
        for piece in self.body():
            yield from self.parser.feed(piece)

    def until(self, type: str) -> list[Sent]:
        """The events up to the first one of this type."""
        found = []
        for event in self.events():
            found.append(event)
            if event.type == type:
                return found
        raise AssertionError(f"The stream ended before {type}: {found}")

    def body(self) -> Iterator[bytes]:
        return self._chunks() if self._is_chunked else self._until_closed()

    def _read_head(self) -> None:
        while b"\r\n\r\n" not in self._raw:
            if not self._more():
                raise ConnectionError("The connection was closed before an answer.")
        head, self._raw = self._raw.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        self.version, status, *_ = first.split(" ")
        self.status = int(status)
        self.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
        }
        self._is_chunked = self.headers.get("transfer-encoding") == "chunked"

    def _more(self) -> bool:
        with contextlib.suppress(ConnectionResetError):
            data = self.socket.recv(65536)
            self._raw += data
            return bool(data)
        return False

    def _chunks(self) -> Iterator[bytes]:
        while True:
            while b"\r\n" not in self._raw:
                if not self._more():
                    return
            size_text, self._raw = self._raw.split(b"\r\n", 1)
            size = int(size_text, 16)
            while len(self._raw) < size + 2:
                if not self._more():
                    return
            chunk, self._raw = self._raw[:size], self._raw[size + 2 :]
            if not size:
                self.is_complete = True
                return
            yield chunk

    def _until_closed(self) -> Iterator[bytes]:
        while self._raw or self._more():
            piece, self._raw = self._raw, b""
            yield piece
        self.is_complete = True
