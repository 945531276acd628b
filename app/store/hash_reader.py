"""Reads a hash of any size for a worker, in pieces that hold up neither the store nor the link.

`attempt_store` reads the steps of earlier attempts with it. Nobody may write the hash meanwhile, so
that the pieces fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.store.worker_connection import LARGE_BYTES, WorkerConnection

FIELDS_TO_NAME = 5000
"""A hash with more fields is scanned: listing their names would block the store."""

FIELDS_PER_READ = 500
FIELDS_PER_SCAN = 100


async def read_hash(store: WorkerConnection, key: str) -> dict[str, bytes]:
    """Reads a hash; the time limit of each piece follows its size. Raises redis-py's errors."""
    if await store.client.hlen(key) > FIELDS_TO_NAME:
        return await _scan(store, key)
    found: dict[str, bytes] = {}
    names: Any = await store.client.hkeys(key)
    for start in range(0, len(names), FIELDS_PER_READ):
        piece = names[start : start + FIELDS_PER_READ]
        async with store.client.pipeline(transaction=False) as pipe:
            for name in piece:
                pipe.hstrlen(key, name)
            lengths = await pipe.execute()
        for group in _grouped(dict(zip(piece, lengths, strict=True))):
            async with store.client_for(sum(group.values())) as client:
                values = await client.hmget(key, list(group))
            found |= {
                name.decode(): value
                for name, value in zip(group, values, strict=True)
                if value is not None
            }
    return found


async def _scan(store: WorkerConnection, key: str) -> dict[str, bytes]:
    """Reads a hash with very many fields, each of them small."""
    found: dict[str, bytes] = {}
    cursor = 0
    while True:
        answer: Any = await store.client.hscan(key, cursor, count=FIELDS_PER_SCAN)
        cursor, fields = answer
        found |= {name.decode(): value for name, value in fields.items()}
        if not cursor:
            return found


def _grouped(lengths: Mapping[bytes, int]) -> list[dict[bytes, int]]:
    """Returns the fields of a hash, with their lengths, in groups of about `LARGE_BYTES`."""
    groups: list[dict[bytes, int]] = [{}]
    for name, length in lengths.items():
        if groups[-1] and sum(groups[-1].values()) + length > LARGE_BYTES:
            groups.append({})
        groups[-1][name] = length
    return groups
