"""What an execution was asked to do, as bytes in its job. Knows no RQ, so that child processes need
not either.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

FUNCTION = "app.domain.payload.execution"
"""The one function that an execution's job names. The scripts write it as RQ's `data`."""

_OLDER_FUNCTION = "app.executions.payload.execution"
"""Its name in records of earlier versions."""

COMPRESS_FROM_BYTES = 1024

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

MOST_PACKED = 1032
"""Times shorter that zlib makes a text at the most."""


def execution(**_: Any) -> None:
    """It is a name for RQ's tools, not the work: that is done by `app.worker`."""
    raise RuntimeError("Executions are run by `python worker.py`, not by `rq worker`.")


def write_call(**call: Any) -> bytes:
    """What was asked, as JSON."""
    return pack(_ENCODER.encode(call).encode())


def read_call(data: bytes) -> dict[str, Any]:
    """What was asked: `type`, `target_id`, `inputs`, `config`. Raises `ValueError` if it makes no
    sense.

    Older versions wrote a list, as RQ does for a function: its name, an instance, arguments,
    keyword arguments.
    """
    call = json.loads(unpack(data))
    if isinstance(call, list) and len(call) == 4 and call[0] == _OLDER_FUNCTION:
        call = call[3]
    if not isinstance(call, dict):
        raise ValueError("What is stored of this execution's call is not an object.")
    return call


def pack(text: bytes) -> bytes:
    """Compresses JSON that is long enough for that to pay. JSON never begins like a zlib stream
    (`x`).
    """
    return zlib.compress(text) if len(text) >= COMPRESS_FROM_BYTES else text


def unpack(packed: bytes) -> bytes:
    """Undoes `pack`."""
    return zlib.decompress(packed) if packed[:1] == b"x" else packed


def unpacks_beyond(packed: bytes, limit_bytes: int) -> bool:
    """Whether it becomes longer than this, without unpacking more than so much of it."""
    if packed[:1] != b"x" or len(packed) * MOST_PACKED <= limit_bytes:
        return False
    try:
        reader = zlib.decompressobj()
        reader.decompress(packed, limit_bytes)
        return bool(reader.unconsumed_tail)
    except zlib.error:
        return False


def readable(packed: bytes) -> bytes | None:
    """The JSON text of what was packed; None where it is none, because somebody else wrote there.

    Long texts stand compressed, with a checksum, and are not parsed again: that would cost more
    than all the rest.
    """
    try:
        text = unpack(packed)
        if packed[:1] != b"x" or len(text) < COMPRESS_FROM_BYTES:
            json.loads(text, parse_constant=_refuse)
        return text
    except (ValueError, RecursionError, zlib.error):
        return None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON.")
