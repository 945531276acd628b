"""Checks whether the store answers and is set up as this service needs it, and has workers.

`/readyz` calls `run_checks`, which changes no execution. It takes one round trip, or two if the
library must be loaded. It has a client of its own: so it does not wait behind requests, and really
calls the store while the `Breaker` of the others lets calls fail at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import redis

from app.domain.errors import StoreUnavailable
from app.settings import Settings
from app.store import connection, store_check
from app.store.functions import Functions
from app.store.store_check import Check, failed_store


class Readiness:
    """Safe to use from many threads."""

    def __init__(self, client: redis.Redis, settings: Settings):
        self._client, self._lease_seconds = client, settings.lease
        self._functions = Functions(client)

    @classmethod
    def connect(cls, settings: Settings) -> Readiness:
        """Opens no connection yet: `run_checks` does."""
        return cls(connection.connect(settings), settings)

    def run_checks(self, queues: Collection[str]) -> list[Check]:
        """Returns all checks, that of the connection first; only that one if the store is silent.

        `queues` are the ones that need a worker.
        """
        try:
            with connection.translated():
                replies = self._replies()
                return [Check("store", "ok", "The store answers."), *self._checks(replies, queues)]
        except StoreUnavailable as error:
            return [failed_store(error)]

    def _replies(self) -> dict[str, Any]:
        """The replies by name. A reply is an error if the store refuses that command."""
        commands: dict[str, tuple[Any, ...]] = {
            "time": ("TIME",),
            "functions": self._functions.probe(),
            "workers": ("ZRANGE", store_check.WORKERS, 0, -1, "WITHSCORES"),
            "slots": ("HGETALL", store_check.SLOTS),
            **store_check.COMMANDS,
        }
        with self._client.pipeline(transaction=False) as pipe:
            for command in commands.values():
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]  # redis's
            answers = dict(zip(commands, pipe.execute(raise_on_error=False), strict=True))
        if isinstance(answers["time"], redis.RedisError):
            raise answers["time"]  # it replies but serves nobody, for example while it loads
        return answers

    def _checks(self, replies: dict[str, Any], queues: Collection[str]) -> Iterator[Check]:
        yield store_check.check_functions(self._functions, replies["functions"])
        yield from store_check.checks(
            replies["info"], replies["save"], replies["write"], replies["format"]
        )
        yield from self._check_workers(replies, queues)

    def _check_workers(self, replies: dict[str, Any], queues: Collection[str]) -> Iterator[Check]:
        """A worker is ready if it sent a heartbeat within the last lease, and has a slot."""
        seconds, microseconds = replies["time"]
        oldest = (seconds - self._lease_seconds) * 1_000_000 + microseconds
        rows, slots = (
            [] if isinstance(replies[name], redis.ResponseError) else replies[name]
            for name in ("workers", "slots")
        )
        slots_of = (
            dict(zip(slots[::2], slots[1::2], strict=True))
            if isinstance(slots, list)
            else dict(slots)
        )
        # A dead worker stays in the list for some leases, until `reap` removes it.
        alive = [worker for worker, at in rows if float(at) > oldest]
        for queue in sorted(queues):
            workers = [
                worker
                for worker in alive
                if worker.decode(errors="replace").partition(":")[0] == queue
            ]
            ready = [worker for worker in workers if not slots_of.get(worker, b"").endswith(b"/0")]
            if ready:
                yield Check(f"workers_{queue}", "ok", f"{len(ready)} at work.")
            elif workers:
                detail = (
                    f"The workers of the queue {queue!r} cannot start a process now. "
                    "Their log says why."
                )
                yield Check(
                    f"workers_{queue}",
                    "failed",
                    detail,
                    "the limits of processes and memory of the workers",
                )
            else:
                detail = (
                    f"No worker takes from the queue {queue!r}, which targets of this service need."
                )
                setting = f"python worker.py, with WORKER_{queue.upper()} over 0"
                yield Check(f"workers_{queue}", "failed", detail, setting)
