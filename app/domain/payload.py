"""Writes and reads the request of an execution (target, inputs, config) and other JSON as bytes.

The store keeps these bytes; the worker's child processes unpack them. It does not import RQ, so
that a child need not load it.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

FUNCTION = "app.domain.payload.execution"
"""The only function that a job of ours names. The scripts write it into RQ's `data`."""

_OLDER_FUNCTION = "app.executions.payload.execution"
"""Its name in records of earlier versions."""

COMPRESS_FROM_BYTES = 1024
"""Shorter texts are stored as they are: compressing them would save little."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

MOST_PACKED = 1032
"""zlib makes a text at most this many times shorter."""


def execution(**_: Any) -> None:
    """A name for RQ's tools to show. `app.worker` does the work."""
    raise RuntimeError("Executions are run by `python worker.py`, not by `rq worker`.")


def delivery(**_: Any) -> None:
    """The same for a webhook delivery, whose job names it in `deliveries.lua`."""
    raise RuntimeError("Webhooks are sent by `python worker.py`, not by `rq worker`.")


def write_call(**call: Any) -> bytes:
    """The request as packed JSON."""
    return pack(_ENCODER.encode(call).encode())


def read_call(data: bytes) -> dict[str, Any]:
    """The request: `type`, `target_id`, `inputs`, `config`.

    Raises `ValueError` if it is unreadable, and `zlib.error` if the bytes are damaged.
    """
    call = json.loads(unpack(data))
    # Older versions wrote a list, as RQ does: function, instance, arguments, keyword arguments.
    if isinstance(call, list) and len(call) == 4 and call[0] == _OLDER_FUNCTION:
        call = call[3]
    if not isinstance(call, dict):
        raise ValueError("The stored request of this execution is not a JSON object.")
    return call


def pack(text: bytes) -> bytes:
    """Compresses JSON if it is long enough."""
    # `unpack` can tell the two apart: a zlib stream begins with `x`, which JSON never does.
    return zlib.compress(text) if len(text) >= COMPRESS_FROM_BYTES else text


def unpack(packed: bytes) -> bytes:
    """The inverse of `pack`."""
    return zlib.decompress(packed) if packed[:1] == b"x" else packed


def unpacks_beyond(packed: bytes, limit_bytes: int) -> bool:
    """Whether the text is longer than this. Unpacks no more than `limit_bytes` of it."""
    if packed[:1] != b"x" or len(packed) * MOST_PACKED <= limit_bytes:
        return False
    try:
        reader = zlib.decompressobj()
        reader.decompress(packed, limit_bytes)
        return bool(reader.unconsumed_tail)
    except zlib.error:
        return False


def readable(packed: bytes) -> bytes | None:
    """The packed JSON text; None if it is something else, which another program wrote."""
    try:
        text = unpack(packed)
        # A compressed text has a checksum, so it is not parsed again: for long texts, parsing would
        # take longer than everything else in a request.
        if packed[:1] != b"x" or len(text) < COMPRESS_FROM_BYTES:
            json.loads(text, parse_constant=_refuse)
        return text
    except (ValueError, RecursionError, zlib.error):
        return None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON.")
