"""Reads what an operator asks for, across all tenants: workers, leases, and all keys of one
execution.

`app.admin` calls it. It changes nothing, and reads without the scripts, so it also works if they
refuse (a store that newer code has written to, for example).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from app.settings import Settings
from app.store import connection
from app.store.deliveries import delivery_id
from app.store.job import (
    LEASES_KEY,
    data_key,
    events_key,
    job_key,
    outputs_key,
    queue_key,
    step_outputs_key,
    steps_key,
)
from app.store.store_check import SLOTS, WORKERS, worker_key

MOST_BYTES = 64 * 1024
"""A longer value is not read."""

MOST_LEASES = 1000
"""More running executions are not listed one by one."""

MOST_ENTRIES = 200
"""A longer list is not read completely."""

MOST_DELIVERIES = 20
"""Of more webhook deliveries, only the last ones are read."""

PER_ROUND_TRIP = 100
"""With values of `MOST_BYTES`, a round trip reads 6 MiB at most."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker as its last heartbeat left it. `slots` is `used/all`."""

    name: str
    queue: str
    slots: str
    silent_seconds: float
    host: str
    pid: str
    version: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A running execution. `left_seconds` is negative if the lease has expired."""

    execution_id: str
    tenant: str
    target: str
    worker: str
    left_seconds: float


class Inspection:
    """Every method raises `StoreUnavailable`.

    A key of the wrong type counts as empty. Its name is added to `wrong_keys`.
    """

    def __init__(self, settings: Settings):
        self._client = connection.connect(settings)
        self.wrong_keys: set[str] = set()

    def workers(self) -> list[WorkerState]:
        """All workers that the store knows. A killed one stays for three leases."""
        with connection.translated():
            now, found = self._now(), self._scores(WORKERS)
            slots = self._hash(SLOTS)
            keys = [worker_key(name.partition(":")[2]) for name, _ in found]
            about = self._rows(keys, "hostname", "pid", "service_version")
            return [
                _worker(name, now - at, _text(slots.get(name)), *fields)
                for (name, at), fields in zip(found, about, strict=True)
            ]

    def leases(self) -> list[Lease]:
        """The running executions, at most `MOST_LEASES`; the lease that ends first at the head."""
        with connection.translated():
            now, found = self._now(), self._scores(LEASES_KEY, MOST_LEASES)
            records = self._fields([id for id, _ in found], "tenant", "target", "worker_name")
            return [
                _lease(id, at - now, *values)
                for (id, at), values in zip(found, records, strict=True)
            ]

    def errors(self, execution_ids: Sequence[str]) -> dict[str, bytes | None]:
        """The stored errors of executions by id; None for one that has no error."""
        with connection.translated():
            found = self._fields(execution_ids, "error")
        return {id: error for id, [error] in zip(execution_ids, found, strict=True)}

    def tenants(self) -> list[str]:
        """The tenants that have executions in the store."""
        with connection.translated():
            keys = self._client.scan_iter("exec:index:*", count=500)
            return sorted({key.decode(errors="replace").split(":")[2] for key in keys})

    def tenant_of(self, execution_id: str) -> str | None:
        """The owner of an execution; None if there is no such execution."""
        with connection.translated():
            [[tenant]] = self._fields([execution_id], "tenant")
        return _text(tenant)

    def everything(self, execution_id: str) -> dict[str, Any]:
        """All that the store holds of an execution; empty if it holds nothing."""
        key = job_key(execution_id)
        with connection.translated():
            record = self._hash(key)
            found: dict[str, Any] = {
                "record": record,
                "request": self._value(data_key(execution_id)),
                "outputs": self._value(outputs_key(execution_id)),
                "steps": self._hash(steps_key(execution_id)),
                "values": self._hash(step_outputs_key(execution_id)),
                "events": self._list(events_key(execution_id)),
                "webhooks": self._deliveries(execution_id, record.get("deliveries")),
                "places": dict(self._places(execution_id, _text(record.get("origin")) or "")),
            }
            return {name: part for name, part in found.items() if part}

    def _deliveries(self, id: str, count: Any) -> dict[str, Any]:
        """The last webhook deliveries by number, each as it is stored."""
        last = int(count) if isinstance(count, bytes) and count.isdigit() else 0
        first = max(1, last - MOST_DELIVERIES + 1)
        numbers = range(first, last + 1)
        return {str(number): self._hash(job_key(delivery_id(id, number))) for number in numbers}

    def _places(self, id: str, queue: str) -> Iterator[tuple[str, float]]:
        """Where the execution is listed: seconds from now, or its place in the queue, from 0."""
        now = self._now()
        for name in ("leases", "delayed", "waiting"):
            score = self._ask(None, "ZSCORE", f"exec:{name}", id)
            if score is not None:
                at = float(score)
                yield name, at if at == float("inf") else at / 1_000_000 - now
        place = self._ask(None, "LPOS", queue_key(queue), id) if queue else None
        if place is not None:
            yield "queue", place

    def _now(self) -> float:
        seconds, microseconds = self._client.time()
        return float(seconds + microseconds / 1_000_000)

    def _scores(self, key: str, most: int = 0) -> list[tuple[str, float]]:
        """The members of a sorted set with their times in seconds since 1970; all, or `most`."""
        rows = self._ask([], "ZRANGE", key, 0, most - 1, "WITHSCORES")
        return [(name.decode(errors="replace"), float(at) / 1_000_000) for name, at in rows]

    def _fields(self, ids: Sequence[str], *names: str) -> list[list[bytes | None]]:
        """These fields of records."""
        return self._rows([job_key(id) for id in ids], *names)

    def _rows(self, keys: Sequence[str], *names: str) -> list[list[bytes | None]]:
        """These fields of hashes, in as many round trips as it takes."""
        found: list[list[bytes | None]] = []
        for start in range(0, len(keys), PER_ROUND_TRIP):
            some = keys[start : start + PER_ROUND_TRIP]
            commands = [("HMGET", key, *names) for key in some]
            found += [row or [None] * len(names) for row in self._ask_all(None, commands)]
        return found

    def _hash(self, key: str) -> dict[str, Any]:
        """A hash. Of a value that is too long, only the length is read, and told."""
        names: list[bytes] = self._ask([], "HKEYS", key)
        found: dict[str, Any] = {}
        for start in range(0, len(names), PER_ROUND_TRIP):
            some = names[start : start + PER_ROUND_TRIP]
            sizes = self._ask_all(0, [("HSTRLEN", key, name) for name in some])
            short = [name for name, size in zip(some, sizes, strict=True) if size <= MOST_BYTES]
            values = iter(self._ask_all(b"", [("HGET", key, name) for name in short]))
            for name, size in zip(some, sizes, strict=True):
                value = next(values) if size <= MOST_BYTES else _length(size)
                found[name.decode(errors="replace")] = value
        return found

    def _value(self, key: str) -> bytes | str | None:
        """A text. If it is too long, only its length is read, and told."""
        size = self._ask(0, "STRLEN", key)
        return _length(size) if size > MOST_BYTES else self._ask(None, "GET", key)

    def _list(self, key: str) -> list[bytes]:
        """The last entries of a list, at most `MOST_ENTRIES`."""
        found: list[bytes] = self._ask([], "LRANGE", key, -MOST_ENTRIES, -1)
        return found

    def _ask(self, empty: Any, *command: Any) -> Any:
        [answer] = self._ask_all(empty, [command])
        return answer

    def _ask_all(self, empty: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to commands; `empty` for a key of the wrong type, which is noted."""
        with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]  # redis's
            answers = pipe.execute(raise_on_error=False)
        for place, answer in enumerate(answers):
            if isinstance(answer, redis.ResponseError) and "WRONGTYPE" in str(answer):
                self.wrong_keys.add(str(commands[place][1]))
                answers[place] = empty
            elif isinstance(answer, redis.RedisError):
                raise answer
        return answers


def _worker(
    worker: str,
    silent: float,
    slots: str | None,
    host: bytes | None,
    pid: bytes | None,
    version: bytes | None,
) -> WorkerState:
    queue, _, name = worker.partition(":")
    host_name, number, release = (_text(value) or "?" for value in (host, pid, version))
    return WorkerState(name, queue, slots or "?", silent, host_name, number, release)


def _lease(
    id: str, left: float, tenant: bytes | None, target: bytes | None, worker: bytes | None
) -> Lease:
    return Lease(id, _text(tenant) or "?", _text(target) or "?", _text(worker) or "?", left)


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _length(size: int) -> str:
    return f"({size} bytes)"
