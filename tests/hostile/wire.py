"""Sends raw bytes to a service and parses its answers strictly: no lenient HTTP client between."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

ANSWER_SECONDS = 60.0

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [ -~]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([ -~\t]*)")
_LISTED = frozenset(("allow", "vary", "ratelimit", "ratelimit-policy"))
"""Headers that may appear more than once, because each is a list."""


class Malformed(AssertionError):
    """The bytes that came back are not well-formed HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def exchange(port: int, pieces: Sequence[bytes]) -> bytes:
    """Sends all pieces and closes the sending side. Returns all bytes until the server closes."""
    answered = b""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as client:
        # Each piece is to arrive by itself: the kernel would join small ones.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece)
            # Else a server that expects more of the body would wait for its deadline.
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                answered += piece
    return answered


def read_answers(text: bytes, methods: Sequence[bytes]) -> list[Answer]:
    """Parses all answers to requests with these methods. Raises `Malformed`."""
    answers: list[Answer] = []
    while text:
        method = methods[len(answers)] if len(answers) < len(methods) else b""
        answer, text = _read(text, method)
        if answer.status >= 200:
            answers.append(answer)
    return answers


def _read(text: bytes, method: bytes) -> tuple[Answer, bytes]:
    head, end, rest = text.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if not end or not found:
        raise Malformed(f"no complete head: {text[:300]!r}")
    status, headers = int(found[1]), _headers(lines)
    if status < 200:
        return Answer(status, headers, b""), rest
    if status in (204, 304) or (method == b"HEAD" and "x-request-id" in headers):
        return Answer(status, headers, b""), rest
    if headers.get("transfer-encoding") == "chunked":
        body, rest = _chunks(rest)
    elif "content-length" in headers:
        length = int(headers["content-length"])
        if len(rest) < length:
            raise Malformed(f"Content-Length is {length}, but {len(rest)} bytes came: {head!r}")
        body, rest = rest[:length], rest[length:]
    elif first.startswith(b"HTTP/1.0 ") and headers.get("content-type") == "text/event-stream":
        # HTTP/1.0 has no chunks: the end of the connection ends the stream.
        body, rest = rest, b""
    else:
        raise Malformed(f"an answer without a length: {head!r}")
    return Answer(status, headers, body), rest


def _headers(lines: Sequence[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if not found:
            raise Malformed(f"invalid header: {line!r}")
        name, value = found[1].decode().lower(), found[2].decode()
        if name in headers and name not in _LISTED:
            raise Malformed(f"duplicate header: {line!r}")
        headers[name] = value
    return headers


def _chunks(text: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, text = text.partition(b"\r\n")
        length = int(size, 16)
        piece, text = text[:length], text[length:]
        if len(piece) < length or not text.startswith(b"\r\n"):
            raise Malformed("a chunk breaks off")
        body, text = body + piece, text[2:]
        if not length:
            return body, text
