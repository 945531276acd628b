"""The executions in the store, as a worker sees them: the calls of its transitions, in its event loop.

Every method raises `StoreUnavailable` when the store does not answer; each may then be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import redis

from app.errors import StoreRefused
from app.executions import connection, scripts
from app.executions.counters import Reports
from app.executions.store import reap_arguments
from app.settings import Settings
from app.work.attempt import Attempt, Entry

BEATS_PER_CALL = 200
"""So that one call never holds the store for more than a millisecond or two."""

WAIT_SECONDS = 5


class Ledger:
    def __init__(self, settings: Settings, queue: str, worker_name: str):
        self._settings, self._queue, self._worker = settings, queue, worker_name
        self._name = f"{queue}:{worker_name}"
        self._client = connection.connect_async(settings)
        self._waiting = connection.connect_async(settings, socket_timeout=WAIT_SECONDS + 3)
        self._scripts: dict[str, Any] = {
            name: self._client.register_script(scripts.source(name))
            for name in ("claim", "beat", "checkpoint", "finish", "release", "reap", "count")
        }
        self._lease = int(settings.lease * 1_000_000)

    async def wait_for_work(self) -> None:
        """Returns when the queue holds something, or after five seconds.

        Moving the queue's head onto itself blocks until there is one, and takes nothing out.
        """
        key = f"rq:queue:{self._queue}"
        with connection.translated():
            await self._waiting.blmove(key, key, WAIT_SECONDS, "LEFT", "LEFT")

    async def claim(self, count: int) -> list[list[bytes]]:
        """Starts an attempt of up to `count` pending executions; see `claim.lua`."""
        with connection.translated():
            return list(await self._scripts["claim"](args=[self._queue, self._worker, count, self._lease]))

    async def hand_back_others(self, known: Container[str]) -> None:
        """Hands back what the store holds for this worker, but it never heard of: a claim's answer was lost.

        `known` has the tokens of its attempts.
        """
        with connection.translated():
            leases: Any = await self._client.zrange("exec:leases", 0, -1)
            ids = [each.decode() for each in leases]
            async with self._client.pipeline(transaction=False) as pipe:
                for id in ids:
                    pipe.hmget(f"rq:job:{id}", "worker", "token")
                rows = await pipe.execute(raise_on_error=False)
                for id, row in zip(ids, rows, strict=True):
                    if isinstance(row, redis.ResponseError) and not str(row).startswith("WRONGTYPE"):
                        raise row
                    worker, token = row if isinstance(row, list) else (None, None)  # what is no record is no claim
                    if worker == self._worker.encode() and token and token.decode() not in known:
                        await self._scripts["release"](args=[id, token, "", "handed_back", 0, ""], client=pipe)
                await pipe.execute()

    async def beat(
        self, attempts: Sequence[Attempt], also: Callable[[Any], None] | None = None, slots: str = ""
    ) -> list[str]:
        """Extends leases, stores progress and usage: `ok`, `cancel` or `lost` for each. `also` joins the round trip.

        With `slots` (`used/all`) it also notes that this worker lives, also where it runs nothing.
        """
        calls: list[tuple[str, list[Any]]] = []
        for start in range(0, len(attempts) or 1, BEATS_PER_CALL):
            arguments: list[Any] = [self._lease, self._name if slots else "", slots]
            for each in attempts[start : start + BEATS_PER_CALL]:
                arguments += [each.id, each.token, each.progress, each.usage]
            calls.append(("beat", arguments))
        with connection.translated():
            answers = await self._called(calls, also)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return [word.decode() for answer in answers for word in answer]

    async def load_steps(self, attempt: Attempt) -> None:
        """Fetches what earlier attempts have stored of their steps."""
        key = f"rq:job:{attempt.id}"
        with connection.translated():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hgetall(f"{key}:steps")
                pipe.hgetall(f"{key}:values")
                steps, values = await pipe.execute()
        attempt.steps = {name.decode(): value for name, value in steps.items()}
        attempt.values = {name.decode(): value for name, value in values.items()}

    async def write(self, entries: Sequence[Entry]) -> list[str]:
        """Writes checkpoints and ends, in order and in one round trip; what its script answers to each.

        For an end that is the status of the execution now, or `lost`; for a checkpoint see `checkpoint.lua`.
        What is refused for itself (too big for the store, say) comes back as a word that begins with `!`.
        """
        calls = [
            (each.script, [each.attempt.id, each.attempt.token, each.attempt.used, *each.arguments]) for each in entries
        ]
        with connection.translated():
            return [self._word(answer) for answer in await self._called(calls)]

    async def reap(self) -> float | None:
        """Moves on whatever nobody else moves on; seconds until the next delay is over, if one is known."""
        with connection.translated():
            next_due = await self._scripts["reap"](args=reap_arguments(self._settings))
        return next_due / 1_000_000 if next_due >= 0 else None

    async def add(self, reports: Reports) -> None:
        """Tells the store what this worker has counted; first what it could not tell before, if any."""
        for _ in range(2):
            number, arguments = reports.next()
            if not arguments:
                return
            with connection.translated():
                await self._scripts["count"](args=arguments)
            reports.told(number)

    async def leave(self) -> None:
        """This worker is no longer there to be counted on."""
        with connection.translated():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrem("exec:workers", self._name)
                pipe.hdel("exec:slots", self._name)
                await pipe.execute()

    def commands(self) -> Any:
        """A subscription's connection, for what is told to this worker at once."""
        return self._waiting.pubsub(ignore_subscribe_messages=True)

    async def close(self) -> None:
        await self._client.aclose()
        await self._waiting.aclose()

    async def _called(
        self, calls: Sequence[tuple[str, list[Any]]], also: Callable[[Any], None] | None = None
    ) -> list[Any]:
        """What the scripts answer, each its answer or its error, in one round trip. `also` may fail by itself.

        (redis-py's own way asks first whether the store still knows them.) A store that has forgotten a script is
        told it again, and all are called again, which harms nothing. One that forgets it once more meanwhile
        leaves `NoScriptError` among the answers.
        """
        answers: list[Any] = []
        for _ in range(2):
            async with self._client.pipeline(transaction=False) as pipe:
                for name, arguments in calls:
                    pipe.evalsha(self._scripts[name].sha, 0, *arguments)
                if also:
                    also(pipe)
                answers = (await pipe.execute(raise_on_error=False))[: len(calls)]
            if not any(isinstance(each, redis.exceptions.NoScriptError) for each in answers):
                break
            for name in {name for name, _ in calls}:
                await self._client.script_load(self._scripts[name].script)
        return answers

    def _word(self, answer: Any) -> str:
        if isinstance(answer, bytes):
            return answer.decode()
        try:
            with connection.translated():
                raise answer
        except StoreRefused as error:
            return f"! {error.__cause__}"
