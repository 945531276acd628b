"""The store's counters and gauges, as the web side reads them, and the way in for what it counts
itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import redis

from app.settings import Settings
from app.store import connection
from app.store.counters import Reports
from app.store.executions import QUEUES
from app.store.functions import Functions

_SLOTS = re.compile(rb"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits in one queue, and who works on it. `used` of all `slots` run something."""

    length: int
    oldest_seconds: float
    workers: int
    used: int
    slots: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is measured, at one instant. `counts` are named as in `counters`."""

    counts: dict[str, int]
    running: int
    delayed: int
    queues: dict[str, QueueState]


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
        """Tells the store what this process has counted; first what it could not tell before, if
        any.
        """
        for _ in range(2):
            number, arguments = reports.next()
            if not arguments:
                return
            with connection.translated():
                self._functions("count", arguments)
            reports.told(number)

    def read(self) -> Snapshot:
        """Everything, in one round trip. What is no number, anybody may have written there, is
        passed over.
        """
        with connection.translated():
            answer: Any = self._functions("observe", [self._lease, *QUEUES.values()])
        counts, running, delayed, queues, workers = answer
        pairs = zip(counts[::2], counts[1::2], strict=True)
        found = list(zip(workers[::2], workers[1::2], strict=True))
        states = {
            name: _queue_state(name, length, age, found)
            for name, (length, age) in zip(QUEUES.values(), queues, strict=True)
        }
        known = {
            field.decode(errors="replace"): int(value) for field, value in pairs if _is_count(value)
        }
        return Snapshot(known, running, delayed, states)


def _is_count(value: bytes) -> bool:
    return value.isdigit() and len(value) < 20  # as long as what the store adds up


def _queue_state(
    queue: str, length: int, age: bytes, workers: list[tuple[bytes, bytes]]
) -> QueueState:
    own = (
        _SLOTS.fullmatch(slots)
        for worker, slots in workers
        if worker.partition(b":")[0] == queue.encode()
    )
    slots = [tuple(map(int, each.groups())) for each in own if each]
    used, every = (sum(each) for each in zip(*slots, strict=True)) if slots else (0, 0)
    return QueueState(length, int(age) / 1_000_000, len(slots), used, every)
