"""Reads the counters and gauges in the store, and adds the counts of this process to them.

`/metrics` reads here. Each web process adds its counts after each reap, and before it exits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import redis

from app.settings import Settings
from app.store import connection
from app.store.counters import Reports
from app.store.executions import QUEUES
from app.store.functions import Functions

_SLOTS = re.compile(rb"(\d{1,9})/(\d{1,9})")
_WORKER = re.compile(rb"[\w\-]{1,64}")


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue and its live workers. `used` of their `slots` run something now.

    `slots_of` and `used_of` say the same of one worker, by the name that it has in attempts. A name
    that no worker of ours has is an empty one.
    """

    length: int
    oldest_seconds: float
    workers: int
    slots_of: dict[str, int]
    used_of: dict[str, int]

    @property
    def slots(self) -> int:
        return sum(self.slots_of.values())

    @property
    def used(self) -> int:
        return sum(self.used_of.values())


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """The webhook deliveries that have not ended, and those of them that wait in the queue."""

    undelivered: int
    oldest_seconds: float
    queued: int
    queue_oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All measurements at one instant. `app.store.counters` explains the names in `counts`."""

    counts: dict[str, int]
    running: int
    delayed: int
    queues: dict[str, QueueState]
    deliveries: DeliveryState


class Statistics:
    """Safe to use from many threads. Every method raises `StoreUnavailable`."""

    def __init__(self, client: redis.Redis, settings: Settings):
        self._lease = int(settings.lease * 1_000_000)
        self._functions = Functions(client)

    @classmethod
    def connect(cls, settings: Settings) -> Statistics:
        """Opens no connection yet: the first call does."""
        return cls(connection.connect(settings), settings)

    def add(self, reports: Reports) -> None:
        """Adds what this process has counted, exactly once."""
        # Twice: the first report may be an earlier one that the store has not confirmed.
        for _ in range(2):
            number, arguments = reports.next()
            if not arguments:
                return
            with connection.translated():
                self._functions("count", arguments)
            reports.told(number)

    def read(self) -> Snapshot:
        """All measurements, in one round trip. Counters that are not numbers are left out."""
        with connection.translated():
            answer: Any = self._functions("observe", [self._lease, *QUEUES.values()])
        counts, running, delayed, queues, workers, deliveries = answer
        pairs = zip(counts[::2], counts[1::2], strict=True)
        found = list(zip(workers[::2], workers[1::2], strict=True))
        states = {
            name: _queue_state(name, length, age, found)
            for name, (length, age) in zip(QUEUES.values(), queues, strict=True)
        }
        known = {
            field.decode(errors="replace"): int(value) for field, value in pairs if _is_count(value)
        }
        undelivered, oldest, queued, queue_oldest = map(int, deliveries)
        state = DeliveryState(undelivered, oldest / 1e6, queued, queue_oldest / 1e6)
        return Snapshot(known, running, delayed, states, state)


def _is_count(value: bytes) -> bool:
    return value.isdigit() and len(value) < 20  # the store's counters have at most 19 digits


def _queue_state(
    queue: str, length: int, age: bytes, workers: list[tuple[bytes, bytes]]
) -> QueueState:
    count = 0
    slots_of: dict[str, int] = defaultdict(int)
    used_of: dict[str, int] = defaultdict(int)
    for worker, slots in workers:
        of, _, name = worker.partition(b":")
        if of == queue.encode() and (match := _SLOTS.fullmatch(slots)):
            shown = name.decode() if _WORKER.fullmatch(name) else ""
            used_of[shown] += int(match[1])
            slots_of[shown] += int(match[2])
            count += 1
    return QueueState(length, int(age) / 1_000_000, count, slots_of, used_of)
