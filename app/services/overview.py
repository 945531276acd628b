"""Tells an operator whether executions can run: workers, queues, and the readiness checks.

The page of the workers shows it. What it reads grows with the number of workers, so one process
reads it at most once a second, whoever asks.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from app.catalog.model import Catalog
from app.domain.errors import StoreUnavailable
from app.services.in_time import InTime
from app.settings import Settings
from app.store.executions import QUEUES
from app.store.inspection import Inspection, Lease, WorkerState
from app.store.readiness import Readiness
from app.store.statistics import QueueState, Statistics
from app.store.store_check import Check, failed_store

__all__ = ["Check", "Overview", "Overviews", "Queue", "Run", "Worker", "queues_needed"]

KEPT_SECONDS = 1.0
"""How long an overview is told again without reading it again."""


@dataclass(frozen=True, slots=True)
class Run:
    """A running execution. `lease_seconds` is negative if its lease has expired."""

    execution_id: str
    tenant: str
    target: str
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of one queue, as its last heartbeat left it. `is_alive` is False if that was longer
    ago than a lease. Slots are None if they cannot be read.
    """

    name: str
    queue: str
    used: int | None
    slots: int | None
    silent_seconds: float
    is_alive: bool
    host: str
    pid: str
    version: str
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue and its live workers. `is_needed`: some target is run by the workers of it."""

    name: str
    isolation: str
    length: int
    oldest_seconds: float
    workers: int
    used: int
    slots: int
    is_needed: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything at one moment, or nearly. There are only the checks (`is_complete` is False) if
    the store does not tell the rest.

    `delayed` executions wait for the time of their next attempt. `lost` ones run on a worker that
    is not in the list any more; the reaper moves them on when their leases have expired.
    """

    checks: tuple[Check, ...]
    queues: tuple[Queue, ...] = ()
    workers: tuple[Worker, ...] = ()
    lost: tuple[Run, ...] = ()
    running: int = 0
    delayed: int = 0
    is_complete: bool = True

    @property
    def is_ready(self) -> bool:
        """Whether an execution that is started now would be stored and run."""
        return all(check.status != "failed" for check in self.checks)


class Overviews:
    """Safe to use from many threads. Never raises `StoreUnavailable`: a check says it."""

    def __init__(self, settings: Settings, catalog: Catalog):
        """Opens no connection yet."""
        self._readiness = Readiness.connect(settings)
        self._statistics = Statistics.connect(settings)
        self._inspection = Inspection(settings)
        self._needed = queues_needed(catalog)
        self._lease_seconds = settings.lease
        self._in_time = InTime(2)
        self._lock = threading.Lock()
        self._kept: tuple[float, Overview] | None = None

    def read(self) -> Overview:
        """The present overview, at most `KEPT_SECONDS` old."""
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > KEPT_SECONDS:
                self._kept = (time.monotonic(), self._present())
            return self._kept[1]

    def _present(self) -> Overview:
        try:
            return self._in_time(self._read)
        except StoreUnavailable as error:
            return Overview((failed_store(error),), is_complete=False)

    def _read(self) -> Overview:
        checks = tuple(self._readiness.run_checks(self._needed))
        try:
            return self._complete(checks)
        except StoreUnavailable:
            return Overview(checks, is_complete=False)  # the failed one among them says why

    def _complete(self, checks: tuple[Check, ...]) -> Overview:
        now, runs = self._statistics.read(), _by_worker(self._inspection.leases())
        return Overview(
            checks=checks,
            queues=tuple(
                _queue(isolation, name, now.queues[name], name in self._needed)
                for isolation, name in QUEUES.items()
            ),
            workers=tuple(
                _worker(state, runs.pop(state.name, ()), self._lease_seconds)
                for state in self._inspection.workers()
            ),
            lost=tuple(run for found in runs.values() for run in found),
            running=now.running,
            delayed=now.delayed,
        )


def queues_needed(catalog: Catalog) -> frozenset[str]:
    """The queues that executions of these targets can be put on: each needs a worker."""
    flows = [flow for agent in catalog.agents.values() for flow in agent.flows.values()]
    return frozenset(QUEUES[target.isolation] for target in (*flows, *catalog.pipelines.values()))


def _by_worker(leases: Iterable[Lease]) -> dict[str, tuple[Run, ...]]:
    runs = defaultdict[str, list[Run]](list)
    for lease in leases:
        run = Run(lease.execution_id, lease.tenant, lease.target, lease.left_seconds)
        runs[lease.worker].append(run)
    return {worker: tuple(found) for worker, found in runs.items()}


def _worker(state: WorkerState, runs: tuple[Run, ...], lease_seconds: float) -> Worker:
    used, _, slots = state.slots.partition("/")
    readable = used.isdecimal() and slots.isdecimal()
    return Worker(
        name=state.name,
        queue=state.queue,
        # Those of the last heartbeat; leases are newer, but only so many are read.
        used=max(int(used), len(runs)) if readable else None,
        slots=int(slots) if readable else None,
        silent_seconds=state.silent_seconds,
        is_alive=state.silent_seconds <= lease_seconds,
        host=state.host,
        pid=state.pid,
        version=state.version,
        runs=runs,
    )


def _queue(isolation: str, name: str, state: QueueState, is_needed: bool) -> Queue:
    return Queue(
        name=name,
        isolation=isolation,
        length=state.length,
        oldest_seconds=state.oldest_seconds,
        workers=state.workers,
        used=state.used,
        slots=state.slots,
        is_needed=is_needed,
    )
