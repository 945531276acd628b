"""Reads large outputs from the store in pieces, once for all requests that want them now.

`ExecutionReader` uses it. The text is in a memory file (`memfd`), outside of Python's heap, and a
response takes small pieces of it, one after the other. So the memory for a slow reader does not
depend on the size of the text.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from app.domain.errors import TooManyLarge
from app.process.aside import give_way

PIECE_BYTES = 64 * 1024
"""The size of a piece that is sent. A reader that has stopped reading holds one of them."""

READ_BYTES = 256 * 1024
"""How much is read from the store in one call. zlib unpacks it to at most a thousand times more."""

WAIT_SECONDS = 5.0
"""How long a request waits until another large output is read, or has reached its clients."""

Read = Callable[[int, int], bytes]
"""Reads the packed text in the store from one offset to another, both included."""


class Held(ExitStack):
    """What is held until a response has been sent. `used` is whether there is anything."""

    used = False

    def callback(self, *args: Any, **options: Any) -> Any:
        self.used = True
        return super().callback(*args, **options)


class LargeText:
    """One text, for as long as it has readers."""

    def __init__(self) -> None:
        # It stays open until its last reader leaves, so `with` does not fit.
        self._file = open(os.memfd_create("outputs"), "w+b", buffering=0)  # noqa: SIM115
        self.size = 0
        self.readers = 0

    def add(self, piece: bytes) -> None:
        self._file.write(piece)
        self.size += len(piece)

    def pieces(self) -> Iterator[bytes]:
        """Yields the text in pieces of `PIECE_BYTES`, in order."""
        for offset in range(0, self.size, PIECE_BYTES):
            yield os.pread(self._file.fileno(), PIECE_BYTES, offset)
            give_way()  # a fast reader must not hold up other requests

    def is_object(self) -> bool:
        """Whether it begins and ends like a JSON object. Parsing all of it would take memory."""
        ends = [os.pread(self._file.fileno(), 1, at) for at in (0, max(0, self.size - 1))]
        return ends == [b"{", b"}"]

    def close(self) -> None:
        self._file.close()


class LargeTexts:
    """The large texts of one process, at most `most` at a time, by key.

    Safe to use from many threads or greenlets.
    """

    def __init__(self, most: int):
        self.places = threading.BoundedSemaphore(most)
        self._texts: dict[str, LargeText] = {}
        self._changing = threading.Lock()

    def get(self, key: str, read: Read, held: ExitStack) -> LargeText | None:
        """The text, held until `held` is closed; None if the store has no packed object there.

        Raises `TooManyLarge`, and what `read` raises.
        """
        # One text is read at a time: so requests for the same one wait, and then share it.
        if not self._changing.acquire(timeout=WAIT_SECONDS):
            raise TooManyLarge
        try:
            text = self._texts.get(key) or self._new(key, read)
            if text:
                text.readers += 1
                held.callback(self._leave, key, text)
            return text
        finally:
            self._changing.release()

    def take_place(self, held: ExitStack) -> None:
        """Reserves the place of a large text, until `held` is closed. Raises `TooManyLarge`."""
        if not self.places.acquire(timeout=WAIT_SECONDS):
            raise TooManyLarge
        held.callback(self.places.release)

    def _new(self, key: str, read: Read) -> LargeText | None:
        with ExitStack() as undo:
            self.take_place(undo)
            text = LargeText()
            undo.callback(text.close)
            if not _unpack(read, text) or not text.is_object():
                return None
            self._texts[key] = text
            undo.pop_all()  # place and file now belong to the text: `_leave` gives them back
            return text

    def _leave(self, key: str, text: LargeText) -> None:
        text.readers -= 1
        if not text.readers:
            del self._texts[key]
            text.close()
            self.places.release()


def _unpack(read: Read, text: LargeText) -> bool:
    """Reads and unpacks all of it. False if it is not packed, or incomplete."""
    unpacker, offset = zlib.decompressobj(), 0
    try:
        while packed := read(offset, offset + READ_BYTES - 1):
            offset += len(packed)
            while packed:
                text.add(unpacker.decompress(packed, READ_BYTES))
                packed = unpacker.unconsumed_tail
                give_way()
    except zlib.error:
        return False
    return unpacker.eof and not unpacker.unused_data
