"""A worker's connections to the store, and the calls of scripts on them. `attempt_store` uses it.

No call waits behind a large or a blocking one: these have connections of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis

from app.settings import Settings
from app.store import connection, functions
from app.store.scripts import library

LARGE_BYTES = 256 * 1024
"""Calls with more than this get a connection and a time limit of their own."""

SLOWEST_BYTES_PER_SECOND = 512 * 1024
"""The slowest link on which a large value is still written or read before its time limit."""

BLOCKING_SECONDS = 5
"""How long a blocking call takes at most. Short enough for a broken connection to be noticed."""

Call = tuple[str, Sequence[Any]]
"""The name of a script, and its arguments."""


class WorkerConnection:
    """Belongs to one event loop. `client` is for quick calls, `waiting` for those that block."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._library = library()
        self.client = connection.connect_async(settings)
        self.waiting = connection.connect_async(settings, socket_timeout=BLOCKING_SECONDS + 3)

    async def call(self, name: str, arguments: Sequence[Any]) -> Any:
        """Calls one script. Raises `StoreUnavailable`."""
        with connection.translated():
            [answer] = await self.call_all([(name, arguments)])
            if isinstance(answer, Exception):
                raise answer
            return answer

    async def call_all(
        self, calls: Sequence[Call], also: Callable[[Any], None] | None = None, size_bytes: int = 0
    ) -> list[Any]:
        """Calls scripts in one round trip. Returns the answer of each, or its error.

        `also` adds commands to the round trip. `size_bytes` is the approximate size of the calls.
        Raises `StoreUnavailable` if the round trip fails.
        """
        async with self.client_for(size_bytes) as client:
            with connection.translated():
                return await functions.call(client, self._library, calls, also)

    @asynccontextmanager
    async def client_for(self, size_bytes: int) -> AsyncIterator[Any]:
        """Yields the usual client or, for a large call, one whose time limit follows its size."""
        if size_bytes <= LARGE_BYTES:
            yield self.client
            return
        seconds = connection.CALL_TIMEOUT_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND
        client = connection.connect_async(self._settings, socket_timeout=seconds)
        try:
            yield client
        finally:
            await _close(client)

    async def close(self) -> None:
        await _close(self.client)
        await _close(self.waiting)


async def _close(client: Any) -> None:
    with suppress(redis.RedisError, OSError):  # whatever was to be done is done, or has failed
        await client.aclose()
