"""Writes Server-Sent Events, as the HTML standard of the WHATWG defines them.

`app.api.streams` calls it. The standard ends a line at CR, LF or both. Many parsers also end it at
other characters that Unicode counts as line ends. None of these can reach a line from a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

CONTENT_TYPE = "text/event-stream"

PIECE_BYTES = 64 * 1024
"""Blocks are sent together up to about this size."""

COMMENT = b":\n\n"
"""Says nothing, but shows both sides that the other one is still there."""

_LINE_ENDS = re.compile(rb"\r\n|\r|\n")
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]")
# Line ends for some parsers; JSON can have them only inside of texts, where it can escape them.
_ESCAPES = {
    "\x7f": b"\\u007f",
    "\x85": b"\\u0085",
    "\u2028": b"\\u2028",
    "\u2029": b"\\u2029",
}


def block(data: bytes, event: str, id: str | int | None = None) -> bytes:
    """One event. `data` is JSON."""
    for character, escape in _ESCAPES.items():
        data = data.replace(character.encode(), escape)
    lines = b"\ndata: ".join(_LINE_ENDS.split(data))
    number = b"" if id is None else b"id: %s\n" % _plain(str(id))
    return b"%sevent: %s\ndata: %s\n\n" % (number, _plain(event), lines)


def position(id: str | int) -> bytes:
    """Changes where a client resumes, without an event."""
    return b"id: %s\n\n" % _plain(str(id))


def retry(seconds: float) -> bytes:
    """Says how long a client waits before it connects again."""
    return b"retry: %d\n\n" % (seconds * 1000)


def pieces(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Joins blocks to pieces that are sent in one step."""
    joined, size = [], 0
    for one in blocks:
        joined.append(one)
        size += len(one)
        if size >= PIECE_BYTES:
            yield b"".join(joined)
            joined, size = [], 0
    if joined:
        yield b"".join(joined)


def _plain(text: str) -> bytes:
    return _NOT_PLAIN.sub("", text).encode("ascii")
