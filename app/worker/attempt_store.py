"""The executions in the store, as a worker sees them: the calls of its scripts, in its event loop.

Every method raises `StoreUnavailable` when the store does not answer. Each may then be repeated,
and one that the network delivers late does nothing: see the scripts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis
import structlog

from app.domain.errors import StoreRefused
from app.settings import Settings
from app.store import connection, functions
from app.store.counters import Reports
from app.store.executions import reap_arguments
from app.store.scripts import library
from app.worker.write import Write

BEATS_PER_CALL = 200
"""So that one call never holds the store for more than a millisecond or two."""

LEASES_PER_CALL = 200

WAIT_SECONDS = 5

LARGE_BYTES = 256 * 1024
"""Calls with more than this have a connection, and a time limit, of their own."""

SLOWEST_BYTES_PER_SECOND = 512 * 1024
"""The slowest link on which a large value is still written or read before its time is over."""

FIELDS_TO_NAME, FIELDS_PER_READ, FIELDS_PER_SCAN = 5000, 500, 100

log = structlog.get_logger(__name__)

Beat = tuple[str, str, int, str, str]
"""Id, token, number of the report, progress, usage; the last two are `""` if there is nothing new.
"""


class ClaimIsLate(Exception):
    """The store did not take a claim's number as the next one: see `claim.lua`."""


class AttemptStore:
    """One worker's connection to the store. `queue` and `worker` name it there."""

    def __init__(self, settings: Settings, queue: str, worker: str):
        self._settings, self._queue, self._worker = settings, queue, worker
        self._name = f"{queue}:{worker}"
        self._client = connection.connect_async(settings)
        self._waiting = connection.connect_async(settings, socket_timeout=WAIT_SECONDS + 3)
        self._library = library()
        self._lease = int(settings.lease * 1_000_000)
        self._claims = 0

    async def wait_for_work(self) -> None:
        """Returns when the queue holds something, or after five seconds.

        Moving the queue's head onto itself blocks until there is one, and takes nothing out.
        """
        key = f"rq:queue:{self._queue}"
        with connection.translated():
            await self._waiting.blmove(key, key, WAIT_SECONDS, "LEFT", "LEFT")

    async def fence(self) -> None:
        """Makes every earlier claim of this worker do nothing from now on, also if it is still on
        its way.
        """
        self._claims += 1
        with connection.translated():
            await self._call_one("fence", [self._worker, self._claims])

    async def claim(self, count: int) -> list[list[bytes]]:
        """Starts an attempt of up to `count` pending executions: rows for `Claim.from_row`.

        Raises `ClaimIsLate` if `fence` must be called first. After any other error, too, it must be
        called, and then `hand_back_others`, as something may have been claimed.
        """
        self._claims += 1
        with connection.translated():
            answer = await self._call_one(
                "claim", [self._queue, self._worker, count, self._lease, self._claims]
            )
        if not isinstance(answer, list):
            raise ClaimIsLate
        return answer

    async def hand_back_others(self, known: Container[tuple[str, str]]) -> int:
        """Hands back, uncounted, what is leased to this worker but unknown to it, and returns how
        much that was.

        `known` has the id and token of each of its attempts. What is unknown was claimed by a call
        whose reply was lost, or had ended in writes that the store has lost.
        """
        found, cursor = 0, 0
        while True:
            with connection.translated():
                answer: Any = await self._client.zscan("exec:leases", cursor, count=LEASES_PER_CALL)
                cursor, rows = answer
                found += await self._hand_back([id.decode() for id, _ in rows], known)
            if not cursor:
                return found

    async def _hand_back(self, ids: Sequence[str], known: Container[tuple[str, str]]) -> int:
        async with self._client.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hmget(f"rq:job:{id}", "worker_name", "token")
            rows = await pipe.execute(raise_on_error=False)
        calls: list[tuple[str, list[Any]]] = []
        for id, row in zip(ids, rows, strict=True):
            worker, token = (
                row if isinstance(row, list) else (None, None)
            )  # not a record, so not a claim
            if worker == self._worker.encode() and token and (id, token.decode()) not in known:
                calls.append(("release", [id, token, "", "handed_back", 0, "unstarted"]))
        words = [_word(answer) for answer in await self._call(self._client, calls)]
        for (_, arguments), word in zip(calls, words, strict=True):
            if word.startswith("!"):  # about this one alone: its lease runs out
                log.error("claim_not_handed_back", execution_id=arguments[0], error=word)
        return sum(not word.startswith("!") and word != "lost" for word in words)

    async def beat(
        self, beats: Sequence[Beat], also: Callable[[Any], None] | None = None, slots: str = ""
    ) -> list[str]:
        """Extends leases, stores progress and usage: `ok`, `cancel` or `lost` for each. `also`
        joins the round trip.

        With `slots` (`used/all`) it also notes that this worker lives, also if it runs nothing.
        """
        calls: list[tuple[str, list[Any]]] = []
        for start in range(0, len(beats) or 1, BEATS_PER_CALL):
            arguments: list[Any] = [self._lease, self._name if slots else "", slots]
            for beat in beats[start : start + BEATS_PER_CALL]:
                arguments += beat
            calls.append(("beat", arguments))
        with connection.translated():
            answers = await self._call(self._client, calls, also)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return [word.decode() for answer in answers for word in answer]

    async def read_steps(self, id: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What earlier attempts have stored of their steps: the two hashes of `app.store.steps`.

        Reads in pieces, each with a time limit that follows its size. Nobody else writes these
        hashes while this worker holds the lease, so the pieces fit together.
        """
        with connection.translated():
            return await self._read_hash(f"rq:job:{id}:steps"), await self._read_hash(
                f"rq:job:{id}:values"
            )

    async def _read_hash(self, key: str) -> dict[str, bytes]:
        if await self._client.hlen(key) > FIELDS_TO_NAME:
            return await self._scan_hash(key)
        found: dict[str, bytes] = {}
        names: Any = await self._client.hkeys(key)
        for start in range(0, len(names), FIELDS_PER_READ):
            piece = names[start : start + FIELDS_PER_READ]
            async with self._client.pipeline(transaction=False) as pipe:
                for name in piece:
                    pipe.hstrlen(key, name)
                lengths = await pipe.execute()
            for group in _grouped(dict(zip(piece, lengths, strict=True))):
                async with self._client_for(sum(group.values())) as client:
                    values = await client.hmget(key, list(group))
                found |= {
                    name.decode(): value
                    for name, value in zip(group, values, strict=True)
                    if value is not None
                }
        return found

    async def _scan_hash(self, key: str) -> dict[str, bytes]:
        """A hash of so many fields that naming all of them would hold the store; each of them is
        small.
        """
        found: dict[str, bytes] = {}
        cursor = 0
        while True:
            answer: Any = await self._client.hscan(key, cursor, count=FIELDS_PER_SCAN)
            cursor, fields = answer
            found |= {name.decode(): value for name, value in fields.items()}
            if not cursor:
                return found

    async def write(self, writes: Sequence[Write]) -> list[str]:
        """Writes checkpoints and ends, in order and in one round trip; what its script answers to
        each.

        For an end that is the status of the execution now, or `lost`; for a checkpoint see
        `checkpoint.lua`. What is refused for itself (too big for the store, say) comes back as a
        word that begins with `!`.
        """
        calls = [(write.script, write.call()) for write in writes]
        async with self._client_for(sum(write.size_bytes for write in writes)) as client:
            with connection.translated():
                return [_word(answer) for answer in await self._call(client, calls)]

    async def answers(self) -> bool:
        """Whether the store answers at all just now."""
        try:
            with connection.translated():
                await self._client.ping()
        except Exception:
            return False
        return True

    async def reap(self) -> float | None:
        """Moves on whatever nobody else moves on; seconds until the next delay is over, if one is
        known.
        """
        with connection.translated():
            next_due = await self._call_one("reap", reap_arguments(self._settings))
        return next_due / 1_000_000 if next_due >= 0 else None

    async def add(self, reports: Reports) -> None:
        """Tells the store what this worker has counted; first what it could not tell before, if
        any.
        """
        for _ in range(2):
            number, arguments = reports.next()
            if not arguments:
                return
            with connection.translated():
                await self._call_one("count", arguments)
            reports.told(number)

    async def leave(self) -> None:
        """This worker is no longer there to be counted on; claims of it that are still on their way
        do nothing.
        """
        with connection.translated():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrem("exec:workers", self._name)
                pipe.hdel("exec:slots", self._name)
                pipe.hdel("exec:claims", self._worker)
                await pipe.execute()

    def commands(self) -> Any:
        """A subscription's connection, for what is told to this worker at once."""
        return self._waiting.pubsub(ignore_subscribe_messages=True)

    async def close(self) -> None:
        await self._client.aclose()
        await self._waiting.aclose()

    @asynccontextmanager
    async def _client_for(self, size_bytes: int) -> AsyncIterator[Any]:
        """The usual client or, for what is large, one whose time limit follows the size.

        Such a call has a connection of its own, so that small ones never wait behind it.
        """
        if size_bytes <= LARGE_BYTES:
            yield self._client
            return
        seconds = connection.CALL_TIMEOUT_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND
        client = connection.connect_async(self._settings, socket_timeout=seconds)
        try:
            yield client
        finally:
            with suppress(redis.RedisError, OSError):  # what was to be done is done
                await client.aclose()

    async def _call_one(self, name: str, arguments: Sequence[Any]) -> Any:
        [answer] = await self._call(self._client, [(name, arguments)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _call(
        self,
        client: Any,
        calls: Sequence[tuple[str, Sequence[Any]]],
        also: Callable[[Any], None] | None = None,
    ) -> list[Any]:
        """What the functions answer, each its answer or its error, in one round trip. `also` may
        fail by itself.
        """
        return await functions.call(client, self._library, calls, also)


def _grouped(lengths: Mapping[bytes, int]) -> list[dict[bytes, int]]:
    """The fields of a hash, with their lengths, in groups of about `LARGE_BYTES`."""
    groups: list[dict[bytes, int]] = [{}]
    for name, length in lengths.items():
        if groups[-1] and sum(groups[-1].values()) + length > LARGE_BYTES:
            groups.append({})
        groups[-1][name] = length
    return groups


def _word(answer: Any) -> str:
    if isinstance(answer, bytes):
        return answer.decode()
    try:
        with connection.translated():
            raise answer
    except StoreRefused as error:
        return f"! {error.__cause__}"
