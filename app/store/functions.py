"""Calls the store's functions, and gives the library to a store that does not have it.

A store keeps the library over a restart, and sends it to its replicas. It is without it when it is
new, was replaced, or lost its last writes: whoever meets that gives it the library, and calls
again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import redis

from app.store.scripts import NOT_FOUND, PREFIX, Library, library

UNUSED_SECONDS = 86_400
"""A library of another version that was not used for so long is removed. One that is missed is
given again.
"""

USES = "exec:libraries"
"""A hash, by name of a library: when it was last used, in seconds of the store's clock. `reap`
writes it.
"""


def command(functions: Library, name: str, args: Sequence[Any]) -> tuple[Any, ...]:
    return ("FCALL", functions.function(name), 0, *args)


def loading(functions: Library) -> tuple[Any, ...]:
    return ("FUNCTION", "LOAD", "REPLACE", functions.code)


def is_missing(answer: Any) -> bool:
    """Whether the store does not know the function that it was asked to call."""
    return isinstance(answer, redis.ResponseError) and NOT_FOUND in str(answer)


class Functions:
    """The functions by name, each call a round trip of its own. Raises what redis-py raises."""

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
        """A call that does nothing, and whose answer tells whether the store has the library (see
        `is_missing`).
        """
        return command(self._library, "status", ["", "", "status", "status", "tenant", "type"])

    def remove_unused(self) -> None:
        """Removes the libraries of versions that nobody runs any more. One of which nothing is
        known gets a day.
        """
        now, _ = self._client.time()
        for found in self._client.function_list(library=f"{PREFIX}*"):
            name = _name_of(found)
            if name == self._library.name:
                continue
            used = self._client.hget(USES, name)
            if used is None:
                self._client.hset(USES, name, now)
            elif not used.isdigit() or int(used) < now - UNUSED_SECONDS:
                with suppress(redis.ResponseError):  # somebody else was faster
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
    """Calls several in one round trip; the answers, errors among them. `also` joins it, and may
    fail by itself.

    A store that does not have the library is given it, and all are called again, which harms
    nothing. One that loses it once more meanwhile leaves its errors among the answers.
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
    """Of a library in the list, which is pairs in one protocol and a mapping in the other."""
    fields = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    name = fields.get(b"library_name") or fields.get("library_name")
    return name.decode() if isinstance(name, bytes) else str(name)
