"""Reads what an operator asks for, across all tenants: workers, leases, and all keys of one
execution.

`app.admin` calls it. It changes nothing, and reads without the scripts, so it also works if they
refuse (a store that newer code has written to, for example).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from app.settings import Settings
from app.store import connection
from app.store.job import LEASES_KEY, data_key, job_key, outputs_key

MOST_BYTES = 64 * 1024
"""A longer value is read to here only."""


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
    """Every method raises `StoreUnavailable`."""

    def __init__(self, settings: Settings):
        self._client = connection.connect(settings)

    def workers(self) -> list[WorkerState]:
        """All workers that the store knows. A killed one stays for three leases."""
        with connection.translated():
            now, found = self._now(), self._scores("exec:workers")
            slots = self._hash("exec:slots")
            return [self._worker(name, now - at, slots) for name, at in found]

    def leases(self) -> list[Lease]:
        """The running executions, the lease that ends first at the head."""
        with connection.translated():
            now, found = self._now(), self._scores(LEASES_KEY)
            return [self._lease(id, at - now) for id, at in found]

    def tenants(self) -> list[str]:
        """The tenants that have executions in the store."""
        with connection.translated():
            keys = self._client.scan_iter("exec:index:*", count=500)
            return sorted({key.decode(errors="replace").split(":")[2] for key in keys})

    def tenant_of(self, execution_id: str) -> str | None:
        """The owner of an execution; None if there is no such execution."""
        return self._hash_value(job_key(execution_id), "tenant")

    def everything(self, execution_id: str) -> dict[str, Any]:
        """All that the store holds of an execution; empty if it holds nothing."""
        key = job_key(execution_id)
        with connection.translated():
            record = self._hash(key)
            found: dict[str, Any] = {"record": record} if record else {}
            for name, text_key in (
                ("request", data_key(execution_id)),
                ("outputs", outputs_key(execution_id)),
            ):
                if text := self._text(text_key):
                    found[name] = text
            for name in ("steps", "values"):
                if fields := self._hash(f"{key}:{name}"):
                    found[name] = fields
            if places := dict(self._places(execution_id, record.get("origin", b"").decode())):
                found["places"] = places
            return found

    def _places(self, id: str, queue: str) -> Iterator[tuple[str, float]]:
        """Where the execution is listed: seconds from now, or its place in the queue, from 0."""
        now = self._now()
        for name in ("leases", "delayed", "waiting"):
            score: Any = self._client.zscore(f"exec:{name}", id)
            if score is not None:
                yield name, score if score == float("inf") else score / 1_000_000 - now
        place: Any = self._client.lpos(f"rq:queue:{queue}", id) if queue else None
        if place is not None:
            yield "queue", place

    def _worker(self, worker: str, silent: float, slots: dict[str, bytes]) -> WorkerState:
        queue, _, name = worker.partition(":")
        about = self._hash(f"rq:worker:{name}")

        def told(field: str) -> str:
            return about.get(field, b"?").decode(errors="replace")

        used = slots.get(worker, b"?").decode(errors="replace")
        return WorkerState(
            name, queue, used, silent, told("hostname"), told("pid"), told("service_version")
        )

    def _lease(self, id: str, left: float) -> Lease:
        record = self._hash(job_key(id))
        tenant, target, worker = (
            record.get(field, b"?").decode(errors="replace")
            for field in ("tenant", "target", "worker_name")
        )
        return Lease(id, tenant, target, worker, left)

    def _now(self) -> float:
        seconds, microseconds = self._client.time()
        return float(seconds + microseconds / 1_000_000)

    def _scores(self, key: str) -> list[tuple[str, float]]:
        """The members of a sorted set with their times in seconds since 1970."""
        rows: Any = self._client.zrange(key, 0, -1, withscores=True)
        return [(name.decode(errors="replace"), at / 1_000_000) for name, at in rows]

    def _hash(self, key: str) -> dict[str, bytes]:
        """A hash; empty if the key has another type."""
        try:
            found: Any = self._client.hgetall(key)
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                return {}
            raise
        return {name.decode(errors="replace"): value for name, value in found.items()}

    def _hash_value(self, key: str, field: str) -> str | None:
        with connection.translated():
            value = self._hash(key).get(field)
        return None if value is None else value.decode(errors="replace")

    def _text(self, key: str) -> bytes | None:
        try:
            if self._client.strlen(key) > MOST_BYTES:
                return f"({self._client.strlen(key)} bytes)".encode()
            return self._client.get(key)  # type: ignore[return-value]  # bytes
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                return None
            raise
