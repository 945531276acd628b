"""Large outputs: read from the store in pieces, once for all who want them at the same time.

The text stands outside of Python's memory, in a file without a name that is no file on a disk
either, and each reader takes one small piece of it after the other. So what a slow reader costs
does not depend on how large the text is.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from app.domain.errors import TooManyLarge

PIECE_BYTES = 64 * 1024
"""Of what is sent, and held for a reader that does not take it."""

READ_BYTES = 256 * 1024
"""Of what is read from the store in one call: it is unpacked to more, at most a thousand times."""

WAIT_SECONDS = 5.0
"""For others of them to be read, or to have reached their clients."""

Read = Callable[[int, int], bytes]
"""The packed text from an offset to another, as the store gives it."""


class Held(ExitStack):
    """What is kept for an answer until it has been sent. `used`: there is something."""

    used = False

    def callback(self, *args: Any, **options: Any) -> Any:
        self.used = True
        return super().callback(*args, **options)


class LargeText:
    """The text, for as long as somebody reads it."""

    def __init__(self) -> None:
        self._file = open(os.memfd_create("outputs"), "w+b", buffering=0)  # noqa: SIM115  closed with its last reader
        self.size, self.readers = 0, 0

    def add(self, piece: bytes) -> None:
        self._file.write(piece)
        self.size += len(piece)

    def pieces(self) -> Iterator[bytes]:
        """Small ones, from the first to the last."""
        for offset in range(0, self.size, PIECE_BYTES):
            yield os.pread(self._file.fileno(), PIECE_BYTES, offset)
            time.sleep(0)  # a fast reader gives way to others

    def is_object(self) -> bool:
        """Whether it may be the JSON of an object, as far as its ends show it."""
        ends = [os.pread(self._file.fileno(), 1, at) for at in (0, max(0, self.size - 1))]
        return ends == [b"{", b"}"]

    def close(self) -> None:
        self._file.close()


class LargeTexts:
    """Those of one process, `most` at a time, each under its key. Safe to use from many threads or
    greenlets.
    """

    def __init__(self, most: int):
        self.places = threading.BoundedSemaphore(most)
        self._texts: dict[str, LargeText] = {}
        self._changing = threading.Lock()

    def get(self, key: str, read: Read, held: ExitStack) -> LargeText | None:
        """The text, until `held` is closed; None where what is stored is no packed object.

        Raises `TooManyLarge`, and what `read` raises.
        """
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
        """For something else that is large, until `held` is closed."""
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
            undo.pop_all()
            return text

    def _leave(self, key: str, text: LargeText) -> None:
        text.readers -= 1
        if not text.readers:
            del self._texts[key]
            text.close()
            self.places.release()


def _unpack(read: Read, text: LargeText) -> bool:
    """False where it is not packed, or not whole."""
    unpacker, offset = zlib.decompressobj(), 0
    try:
        while packed := read(offset, offset + READ_BYTES - 1):
            offset += len(packed)
            while packed:
                text.add(unpacker.decompress(packed, READ_BYTES))
                packed = unpacker.unconsumed_tail
                time.sleep(0)  # others go on
    except zlib.error:
        return False
    return unpacker.eof and not unpacker.unused_data
