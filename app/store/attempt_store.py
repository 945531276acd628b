"""A worker's calls to the store: claims, heartbeats, writes, reaping. Used by `app.worker`.

Every method raises `StoreUnavailable` if the store does not answer, and may then be called again.
A call that the network delivers late does nothing: see the scripts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Container, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import structlog

from app.domain.errors import StoreRefused
from app.settings import Settings
from app.store import connection
from app.store.counters import Reports
from app.store.executions import reap_arguments
from app.store.hash_reader import read_hash
from app.store.job import LEASES_KEY, job_key, queue_key, step_outputs_key, steps_key
from app.store.store_check import SLOTS, WORKERS
from app.store.worker_connection import BLOCKING_SECONDS, Call, WorkerConnection
from app.store.write import Write

BEATS_PER_CALL = 200
"""A call with more of them would block the store for longer than a millisecond or two."""

LEASES_PER_CALL = 200

log = structlog.get_logger(__name__)


class Beat(NamedTuple):
    """A report of one attempt. `progress`, `usage` and `events` are `""` if nothing is new.

    What events look like is said in `scripts/events.lua`; `last_event` is the number of the last.
    """

    id: str
    token: str
    number: int
    progress: str = ""
    usage: str = ""
    events: str = ""
    last_event: int = 0


class ClaimIsLate(Exception):
    """The store did not accept a claim's number as the next one: see `claim.lua`."""


class AttemptStore:
    """What one worker does in the store. `queue` and `worker` are the names it has there."""

    def __init__(self, settings: Settings, queue: str, worker: str):
        self._settings = settings
        self._queue = queue
        self._worker = worker
        self._name = f"{queue}:{worker}"
        self._store = WorkerConnection(settings)
        self._lease = int(settings.lease * 1_000_000)
        self._claims = 0

    # Claims.

    async def wait_for_work(self) -> None:
        """Returns when the queue holds something, or after `BLOCKING_SECONDS`."""
        # Moving the head of the queue onto itself blocks until there is one, and removes nothing.
        key = queue_key(self._queue)
        with connection.translated():
            await self._store.waiting.blmove(key, key, BLOCKING_SECONDS, "LEFT", "LEFT")

    async def fence(self) -> None:
        """Makes this worker's earlier claims do nothing, even those that have not arrived yet."""
        self._claims += 1
        await self._store.call("fence", [self._worker, self._claims])

    async def claim(self, count: int) -> list[list[bytes]]:
        """Starts attempts of up to `count` pending executions. Returns rows for `Claim.from_row`.

        Raises `ClaimIsLate` if `fence` must be called first. After any other error, call `fence`
        and then `hand_back_others`, because something may have been claimed.
        """
        self._claims += 1
        arguments = [self._queue, self._worker, count, self._lease, self._claims]
        answer = await self._store.call("claim", arguments)
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
                answer: Any = await self._store.client.zscan(
                    LEASES_KEY, cursor, count=LEASES_PER_CALL
                )
                cursor, rows = answer
                found += await self._hand_back([id.decode() for id, _ in rows], known)
            if not cursor:
                return found

    async def _hand_back(self, ids: Sequence[str], known: Container[tuple[str, str]]) -> int:
        async with self._store.client.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hmget(job_key(id), "worker_name", "token")
            rows = await pipe.execute(raise_on_error=False)
        calls: list[Call] = []
        for id, row in zip(ids, rows, strict=True):
            # An error instead of a list: another type of value is under the record's key.
            worker, token = row if isinstance(row, list) else (None, None)
            if worker == self._worker.encode() and token and (id, token.decode()) not in known:
                calls.append(("release", [id, token, "", "", "handed_back", 0, "unstarted"]))
        words = [_word(answer) for answer in await self._store.call_all(calls)]
        for (_, arguments), word in zip(calls, words, strict=True):
            if word.startswith("!"):  # this one alone failed: its lease expires, and it is requeued
                log.error("claim_not_handed_back", execution_id=arguments[0], error=word)
        return sum(not word.startswith("!") and word != "lost" for word in words)

    # While attempts run.

    async def beat(
        self, beats: Sequence[Beat], also: Callable[[Any], None] | None = None, slots: str = ""
    ) -> list[str]:
        """Extends leases, and stores what is new. Returns `ok`, `cancel` or `lost` for each.

        With `slots` (`used/all`) it also records that this worker lives, even without a beat.
        `also` adds commands to the same round trip.
        """
        calls: list[Call] = []
        for start in range(0, len(beats) or 1, BEATS_PER_CALL):  # one call even without a beat
            name = self._name if slots else ""
            arguments: list[Any] = [self._lease, name, slots, self._settings.max_events]
            for beat in beats[start : start + BEATS_PER_CALL]:
                arguments += beat[:6]
            calls.append(("beat", arguments))
        with connection.translated():
            answers = await self._store.call_all(calls, also)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return [word.decode() for answer in answers for word in answer]

    async def commands(self, channel: str) -> AsyncGenerator[Any]:
        """Yields what is published for this worker, without end. Close it with `aclosing`."""
        subscription = self._store.waiting.pubsub(ignore_subscribe_messages=True)
        async with aclosing(subscription):
            with connection.translated():
                await subscription.subscribe(channel)
                while True:
                    if message := await subscription.get_message(timeout=None):
                        yield message["data"]

    async def read_steps(self, id: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Returns what earlier attempts stored: the two hashes described in `app.store.steps`.

        Nobody else writes them while this worker holds the lease.
        """
        with connection.translated():
            steps = await read_hash(self._store, steps_key(id))
            return steps, await read_hash(self._store, step_outputs_key(id))

    async def write(self, writes: Sequence[Write]) -> list[str]:
        """Writes checkpoints and ends, in order and in one round trip. Returns an answer for each.

        For an end, the answer is the execution's status now, or `lost`; for a checkpoint see
        `checkpoint.lua`. If the store refuses one write (for example because it is too large), its
        answer begins with `!`, and the others are written.
        """
        calls = [(write.script, write.call()) for write in writes]
        size_bytes = sum(write.size_bytes for write in writes)
        return [_word(answer) for answer in await self._store.call_all(calls, None, size_bytes)]

    # Beside attempts.

    async def answers(self) -> bool:
        """Whether the store answers at all at the moment. Never raises."""
        try:
            with connection.translated():
                await self._store.client.ping()
        except Exception:
            return False
        return True

    async def reap(self) -> float | None:
        """Runs the reaper. Returns the seconds until the next delayed execution is due, if any."""
        next_due = await self._store.call("reap", reap_arguments(self._settings))
        return next_due / 1_000_000 if next_due >= 0 else None

    async def add(self, reports: Reports) -> None:
        """Adds this worker's counts to the totals in the store."""
        # Twice: first the report that could not be sent before, if any, then the new one.
        for _ in range(2):
            number, arguments = reports.next()
            if not arguments:
                return
            await self._store.call("count", arguments)
            reports.told(number)

    async def leave(self) -> None:
        """Removes this worker from the store. Its claims that have not arrived yet do nothing."""
        with connection.translated():
            async with self._store.client.pipeline(transaction=False) as pipe:
                pipe.zrem(WORKERS, self._name)
                pipe.hdel(SLOTS, self._name)
                pipe.hdel("exec:claims", self._worker)
                await pipe.execute()

    async def close(self) -> None:
        await self._store.close()


def _word(answer: Any) -> str:
    """Returns a script's answer as text; an error that concerns one call alone begins with `!`."""
    if isinstance(answer, bytes):
        return answer.decode()
    try:
        with connection.translated():
            raise answer
    except StoreRefused as error:
        return f"! {error.__cause__}"
