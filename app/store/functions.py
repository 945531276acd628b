"""Calls the store's functions, and loads their library into a store that does not have it.

A store keeps the library over a restart, and sends it to its replicas. It lacks the library if it
is new, was replaced, or lost its last writes. The caller that finds this out loads it and calls
again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import redis

from app.store.scripts import NOT_FOUND, PREFIX, Library, library

UNUSED_SECONDS = 86_400
"""A library of another version is removed if no process used it for this long. If one still needs
it, that process loads it again.
"""

USES = "exec:libraries"
"""A hash: library -> when it was last used, in seconds of the store's clock. `reap` writes it."""


def command(functions: Library, name: str, args: Sequence[Any]) -> tuple[Any, ...]:
    return ("FCALL", functions.function(name), 0, *args)


def loading(functions: Library) -> tuple[Any, ...]:
    # With REPLACE it does no harm if two processes load the library at the same time.
    return ("FUNCTION", "LOAD", "REPLACE", functions.code)


def is_missing(answer: Any) -> bool:
    """Whether a reply says that the store does not have the function."""
    return isinstance(answer, redis.ResponseError) and NOT_FOUND in str(answer)


class Functions:
    """Calls functions by name, one round trip for each call. Raises what redis-py raises."""

    def __init__(self, client: redis.Redis):
        self._client, self._library = client, library()

    def __call__(self, name: str, args: Sequence[Any]) -> Any:
        try:
            return self._execute(*command(self._library, name, args))
        except redis.ResponseError as error:
            if not is_missing(error):
                raise
        self.load()
        return self._execute(*command(self._library, name, args))

    def load(self) -> None:
        self._execute(*loading(self._library))

    def probe(self) -> tuple[Any, ...]:
        """A call that changes nothing. `is_missing` tells from its reply whether the store has the
        library.
        """
        return command(self._library, "status", ["", "", "status", "status", "tenant", "type"])

    def remove_unused(self) -> None:
        """Removes libraries that nobody has used for a day (see `UNUSED_SECONDS`)."""
        now, _ = self._client.time()
        for found in self._client.function_list(library=f"{PREFIX}*"):
            name = _name_of(found)
            if name == self._library.name:
                continue
            used = self._client.hget(USES, name)
            if used is None:  # nothing is known about it: its day begins now
                self._client.hset(USES, name, now)
            elif not used.isdigit() or int(used) < now - UNUSED_SECONDS:
                with suppress(redis.ResponseError):  # another process has removed it already
                    self._client.function_delete(name)
                self._client.hdel(USES, name)

    def _execute(self, *words: Any) -> Any:
        return self._client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis's


async def call(
    client: Any,
    functions: Library,
    calls: Sequence[tuple[str, Sequence[Any]]],
    also: Callable[[Any], None] | None = None,
) -> list[Any]:
    """Makes several calls in one round trip and returns the replies, in order, errors included.

    `also` may add commands to the round trip; their replies are ignored. If the store does not have
    the library, it is loaded and all calls are made again, which does no harm. If the store then
    loses it once more, the replies contain that error.
    """
    answers: list[Any] = []
    for _ in range(2):
        async with client.pipeline(transaction=False) as pipe:
            for name, args in calls:
                pipe.execute_command(*command(functions, name, args))
            if also:
                also(pipe)
            answers = (await pipe.execute(raise_on_error=False))[: len(calls)]
        if not any(map(is_missing, answers)):
            break
        loaded: Awaitable[Any] = client.execute_command(*loading(functions))
        await loaded
    return answers


def _name_of(found: Any) -> str:
    # RESP2 returns a library as a list of pairs, RESP3 as a mapping.
    fields = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    name = fields.get(b"library_name") or fields.get("library_name")
    return name.decode() if isinstance(name, bytes) else str(name)
