"""Makes a worker's calls to the store: claims, heartbeats, writes, reaping. Used by `worker`,
`writer` and `saved_steps`.

Every method raises `StoreUnavailable` if the store does not answer, and may then be called again.
A call that the network delivers late does nothing: see the scripts.
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
"""A call with more of them would block the store for longer than a millisecond or two."""

LEASES_PER_CALL = 200

WAIT_SECONDS = 5
"""How long one wait for work takes at most. Short enough for a broken connection to be noticed."""

LARGE_BYTES = 256 * 1024
"""Calls with more than this get a connection and a time limit of their own."""

SLOWEST_BYTES_PER_SECOND = 512 * 1024
"""The slowest link on which a large value is still written or read before its time limit."""

FIELDS_TO_NAME = 5000
"""A hash with more fields is scanned: listing their names would block the store."""

FIELDS_PER_READ = 500
FIELDS_PER_SCAN = 100

log = structlog.get_logger(__name__)

Beat = tuple[str, str, int, str, str]
"""Id, token, number of the report, progress, usage. The last two are `""` if nothing is new."""


class ClaimIsLate(Exception):
    """The store did not accept a claim's number as the next one: see `claim.lua`."""


class AttemptStore:
    """One worker's connections to the store. `queue` and `worker` are the names it has there."""

    def __init__(self, settings: Settings, queue: str, worker: str):
        self._settings = settings
        self._queue = queue
        self._worker = worker
        self._name = f"{queue}:{worker}"
        self._client = connection.connect_async(settings)
        # A blocking call would hold up all others, so it has a client of its own, with a time limit
        # that is longer than the wait.
        self._waiting = connection.connect_async(settings, socket_timeout=WAIT_SECONDS + 3)
        self._library = library()
        self._lease = int(settings.lease * 1_000_000)
        self._claims = 0

    async def wait_for_work(self) -> None:
        """Returns when the queue holds something, or after `WAIT_SECONDS`."""
        # Moving the head of the queue onto itself blocks until there is one, and removes nothing.
        key = f"rq:queue:{self._queue}"
        with connection.translated():
            await self._waiting.blmove(key, key, WAIT_SECONDS, "LEFT", "LEFT")

    async def fence(self) -> None:
        """Makes this worker's earlier claims do nothing, even those that have not arrived yet."""
        self._claims += 1
        with connection.translated():
            await self._call_one("fence", [self._worker, self._claims])

    async def claim(self, count: int) -> list[list[bytes]]:
        """Starts attempts of up to `count` pending executions. Returns rows for `Claim.from_row`.

        Raises `ClaimIsLate` if `fence` must be called first. After any other error, call `fence`
        and then `hand_back_others`, because something may have been claimed.
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
        """Releases executions that are leased to this worker but unknown to it. Returns how many.

        `known` has the id and token of each of its attempts. An unknown one was claimed by a call
        whose reply was lost, or it had ended in a write that the store has lost. The release does
        not count as an attempt.
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
            # An error instead of a list: another type of value is under the record's key.
            worker, token = row if isinstance(row, list) else (None, None)
            if worker == self._worker.encode() and token and (id, token.decode()) not in known:
                calls.append(("release", [id, token, "", "handed_back", 0, "unstarted"]))
        words = [_word(answer) for answer in await self._call(self._client, calls)]
        for (_, arguments), word in zip(calls, words, strict=True):
            if word.startswith("!"):  # this one alone failed: its lease expires, and it is requeued
                log.error("claim_not_handed_back", execution_id=arguments[0], error=word)
        return sum(not word.startswith("!") and word != "lost" for word in words)

    async def beat(
        self, beats: Sequence[Beat], also: Callable[[Any], None] | None = None, slots: str = ""
    ) -> list[str]:
        """Extends leases, and stores progress and usage. Returns `ok`, `cancel` or `lost` for each.

        With `slots` (`used/all`) it also records that this worker lives, even without a beat.
        `also` adds commands to the same round trip.
        """
        calls: list[tuple[str, list[Any]]] = []
        for start in range(0, len(beats) or 1, BEATS_PER_CALL):  # one call even without a beat
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
        """Returns what earlier attempts stored: the two hashes described in `app.store.steps`.

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
        """Reads a hash with very many fields, each of them small."""
        found: dict[str, bytes] = {}
        cursor = 0
        while True:
            answer: Any = await self._client.hscan(key, cursor, count=FIELDS_PER_SCAN)
            cursor, fields = answer
            found |= {name.decode(): value for name, value in fields.items()}
            if not cursor:
                return found

    async def write(self, writes: Sequence[Write]) -> list[str]:
        """Writes checkpoints and ends, in order and in one round trip. Returns an answer for each.

        For an end, the answer is the execution's status now, or `lost`; for a checkpoint see
        `checkpoint.lua`. If the store refuses one write (for example because it is too large), its
        answer begins with `!`, and the others are written.
        """
        calls = [(write.script, write.call()) for write in writes]
        async with self._client_for(sum(write.size_bytes for write in writes)) as client:
            with connection.translated():
                return [_word(answer) for answer in await self._call(client, calls)]

    async def answers(self) -> bool:
        """Whether the store answers at all at the moment. Never raises."""
        try:
            with connection.translated():
                await self._client.ping()
        except Exception:
            return False
        return True

    async def reap(self) -> float | None:
        """Runs the reaper. Returns the seconds until the next delayed execution is due, if any."""
        with connection.translated():
            next_due = await self._call_one("reap", reap_arguments(self._settings))
        return next_due / 1_000_000 if next_due >= 0 else None

    async def add(self, reports: Reports) -> None:
        """Adds this worker's counts to the totals in the store."""
        # Twice: first the report that could not be sent before, if any, then the new one.
        for _ in range(2):
            number, arguments = reports.next()
            if not arguments:
                return
            with connection.translated():
                await self._call_one("count", arguments)
            reports.told(number)

    async def leave(self) -> None:
        """Removes this worker from the store. Its claims that have not arrived yet do nothing."""
        with connection.translated():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrem("exec:workers", self._name)
                pipe.hdel("exec:slots", self._name)
                pipe.hdel("exec:claims", self._worker)
                await pipe.execute()

    def commands(self) -> Any:
        """Returns a subscription for commands to this worker."""
        return self._waiting.pubsub(ignore_subscribe_messages=True)

    async def close(self) -> None:
        await self._client.aclose()
        await self._waiting.aclose()

    @asynccontextmanager
    async def _client_for(self, size_bytes: int) -> AsyncIterator[Any]:
        """Yields the usual client or, for a large call, one whose time limit follows its size. It
        has its own connection, so that small calls never wait behind it.
        """
        if size_bytes <= LARGE_BYTES:
            yield self._client
            return
        seconds = connection.CALL_TIMEOUT_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND
        client = connection.connect_async(self._settings, socket_timeout=seconds)
        try:
            yield client
        finally:
            with suppress(redis.RedisError, OSError):  # the call itself is over
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
        """Calls scripts in one round trip. Returns the answer of each, or its error."""
        return await functions.call(client, self._library, calls, also)


def _grouped(lengths: Mapping[bytes, int]) -> list[dict[bytes, int]]:
    """Returns the fields of a hash, with their lengths, in groups of about `LARGE_BYTES`."""
    groups: list[dict[bytes, int]] = [{}]
    for name, length in lengths.items():
        if groups[-1] and sum(groups[-1].values()) + length > LARGE_BYTES:
            groups.append({})
        groups[-1][name] = length
    return groups


def _word(answer: Any) -> str:
    """Returns a script's answer as text; an error that concerns one call alone begins with `!`."""
    if isinstance(answer, bytes):
        return answer.decode()
    try:
        with connection.translated():
            raise answer
    except StoreRefused as error:
        return f"! {error.__cause__}"
