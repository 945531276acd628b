"""A request on its way in, as far as it has arrived. What is right or wrong about it, gunicorn's parser decides."""

from __future__ import annotations

import re

from gunicorn.http.unreader import Unreader

SKIP_BYTES = 16 * 1024 * 1024
"""What is read of a body that is too large: a client that is still sending would miss the answer."""

_LINE_BYTES = 8192
_FRAMING = re.compile(rb"\n(content-length|transfer-encoding)([ \t]*):([^\r\n]*)", re.IGNORECASE)
_EXPECT = re.compile(rb"\A(?:\r\n)?[^\r]* HTTP/1\.1\r.*\nexpect:[ \t]*100-continue[ \t]*\r", re.IGNORECASE | re.DOTALL)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class Incoming(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """A request as far as it has arrived; then what the parser reads it from, instead of a socket.

    `short` says that there is more of this request than is kept: the connection must end with it. `coded`: its body
    is not only chunked but packed, which nobody here unpacks; how long it is, is not looked for.
    """

    def __init__(self, max_head_bytes: int, max_body_bytes: int):
        super().__init__()
        self._max_head_bytes, self._max_body_bytes = max_head_bytes, max_body_bytes
        self.begin()

    def begin(self) -> None:
        """Forgets the request before."""
        self.kept = bytearray()
        self.coded = False
        self.short = self.waits_for_continue = self._told_to_go_on = False
        self._body_at = self._body_bytes = self._next_chunk_at = self._skip_bytes = 0

    def feed(self, data: bytes) -> bool:
        """Takes what has arrived. True: the request is whole, or the parser can say already what is wrong."""
        if self.short:
            return self._skip(data)
        searched = max(0, len(self.kept) - 3)
        self.kept += data
        if not self._body_at:
            end = self.kept.find(b"\r\n\r\n", searched)
            if end < 0:
                return self._can_not_be_a_head(searched)
            self._read_framing(end + 4)
        if self._next_chunk_at:
            return self._chunks_are_whole()
        if self._body_bytes > self._max_body_bytes:
            return self._begin_to_skip(self._body_bytes)
        return len(self.kept) >= self._body_at + self._body_bytes

    def must_be_told_to_go_on(self) -> bool:
        """True once, where the client waits for a word before it sends the body."""
        must = self.waits_for_continue and not self._told_to_go_on
        self._told_to_go_on |= must
        return must

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The parser asks for more than is kept: as far as it can see, the client has gone."""
        self.short = True
        return b""

    def _can_not_be_a_head(self, searched: int) -> bool:
        if len(self.kept) > _LINE_BYTES and self.kept.find(b"\r\n", 0, _LINE_BYTES) < 0:
            return True
        return len(self.kept) > self._max_head_bytes or bool(_BARE_LF.search(self.kept, searched))

    def _read_framing(self, body_at: int) -> None:
        """How long the body is. Where that is not plain, it has none: the parser refuses or the connection ends."""
        self._body_at = body_at
        head = bytes(self.kept[:body_at])
        self.waits_for_continue = bool(_EXPECT.search(head))
        framing = _FRAMING.findall(head)
        self.coded = any(each[0].lower() == b"transfer-encoding" and b"," in each[2] for each in framing)
        if len(framing) == 1 and not framing[0][1]:
            name, value = framing[0][0].lower(), framing[0][2].strip(b" \t").lower()
            if name == b"content-length" and value.isdigit() and len(value) < 40:
                self._body_bytes = int(value)
            elif name == b"transfer-encoding" and value == b"chunked":
                self._next_chunk_at = body_at

    def _chunks_are_whole(self) -> bool:
        while (end := self.kept.find(b"\r\n", self._next_chunk_at)) >= 0:
            size = _CHUNK_SIZE.match(self.kept, self._next_chunk_at)
            if not size:
                return True
            if int(size[0], 16) == 0:
                return self.kept.find(b"\r\n\r\n", end) >= 0  # behind the trailers, if there are any
            self._body_bytes += int(size[0], 16)
            self._next_chunk_at = end + 2 + int(size[0], 16) + 2
        if self._body_bytes - max(0, self._next_chunk_at - len(self.kept)) > self._max_body_bytes:
            return self._begin_to_skip(SKIP_BYTES)
        framing_bytes = len(self.kept) - self._body_at - self._body_bytes
        return framing_bytes > 8 * self._max_body_bytes or len(self.kept) - self._next_chunk_at > _LINE_BYTES

    def _begin_to_skip(self, body_bytes: int) -> bool:
        """Keeps nothing any more. With very much to come, or a client that asked before, nothing is waited for."""
        self.short = True
        self._skip_bytes = body_bytes if body_bytes <= SKIP_BYTES and not self.waits_for_continue else 0
        arrived = bytes(self.kept[self._body_at :])
        return self._skip(arrived)

    def _skip(self, data: bytes) -> bool:
        self._skip_bytes -= len(data)
        return self._skip_bytes <= 0 or (self._next_chunk_at > 0 and data.endswith(b"0\r\n\r\n"))
