"""Drives the transitions directly, as the web side and as two workers would, against a real store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import redis

from app.domain.events import Event
from app.domain.execution import Execution, Include, NewExecution, Status, StepRecord, TargetType
from app.domain.identifiers import new_id
from app.settings import Settings
from app.store.execution_lists import index_keys
from app.store.executions import ExecutionStore
from app.store.functions import Functions
from app.store.steps import write_record

LEASE_MICROSECONDS = 12_000_000
FINAL = {"completed": "finished", "failed": "failed", "cancelled": "canceled"}
"""The final states, and RQ's names of its registries of them."""

LONG_AGO = 10_000_000_001
"""A time of long ago, in RQ's registries."""


def registry(status: str, queue: str = "processes") -> str:
    """RQ's registry of what has ended so."""
    return f"rq:{FINAL[status]}:{queue}"


def new_execution(**changes: Any) -> NewExecution:
    plain = NewExecution(
        id=new_id(),
        tenant="default",
        type=TargetType.AGENT,
        target_id="echo",
        inputs={"text": "hello"},
        config={},
        queue="processes",
        total_steps=1,
        timeout_seconds=600,
        max_attempts=3,
    )
    return replace(plain, **changes)


class Driver:
    def __init__(self, client: redis.Redis, settings: Settings | None = None):
        self.client = client
        self.store = ExecutionStore(client, settings or Settings())
        self._functions = Functions(client)
        self._numbers: dict[str, int] = {}

    def submit(self, **changes: Any) -> str:
        new = new_execution(**changes)
        self.store.submit(new)
        return new.id

    def claim(
        self, worker: str = "w1", count: int = 1, queue: str = "processes"
    ) -> list[tuple[str, str]]:
        """Id and token of each claimed execution, as a worker that fences before its first claim.
        One call claims as many as there is time for.
        """
        if worker not in self._numbers:
            self.fence(worker)
        claimed: list[tuple[str, str]] = []
        while len(claimed) < count:
            rows = self.claim_by_number(
                worker, self._next_number(worker), count - len(claimed), queue
            )
            if rows is None:
                self.fence(worker)
                continue
            claimed += rows
            if not rows:
                break
        return claimed

    def claim_rows(
        self, count: int, worker: str = "w1", queue: str = "processes"
    ) -> list[list[bytes]]:
        """What one call of the script answers to a worker that has fenced before."""
        if worker not in self._numbers:
            self.fence(worker)
        rows = self.run(
            "claim", queue, worker, count, LEASE_MICROSECONDS, self._next_number(worker)
        )
        return [] if rows == b"late" else list(rows)

    def overwrite(self, key: str, kind: str) -> None:
        """Puts a value of this kind (`string`, `list`, `hash`, `set`) in the place of a key, as
        another program might.
        """
        self.client.delete(key)
        if kind == "string":
            self.client.set(key, "somebody else's")
        elif kind == "list":
            self.client.rpush(key, "somebody else's")
        elif kind == "hash":
            self.client.hset(key, "somebody", "else")
        else:
            self.client.sadd(key, "somebody else's")

    def run(self, name: str, *arguments: Any) -> Any:
        """What one script answers to these arguments."""
        return self._functions(name, list(arguments))

    def reap(self, most: int = 10_000) -> float | None:
        """Reaps until nothing more is due at once."""
        for _ in range(most):
            next_due = self.store.reap()
            if next_due != 0:
                return next_due
        raise AssertionError("There is always more to reap.")

    def claim_by_number(
        self, worker: str, number: int, count: int = 1, queue: str = "processes"
    ) -> list[tuple[str, str]] | None:
        """The same with a number of one's own choice; None if it is not the next one."""
        rows = self._functions("claim", [queue, worker, count, LEASE_MICROSECONDS, number])
        return None if rows == b"late" else [(row[0].decode(), row[1].decode()) for row in rows]

    def fence(self, worker: str = "w1", number: int | None = None) -> None:
        self._functions("fence", [worker, self._next_number(worker) if number is None else number])

    def _next_number(self, worker: str) -> int:
        """Numbers only grow, so a clock will do: drivers of one test may stand for one worker."""
        number = self._numbers.get(worker, time.monotonic_ns() // 1000) + 1
        self._numbers[worker] = number
        return number

    def beat(
        self,
        id: str,
        token: str,
        progress: str = "",
        number: int | None = None,
        usage: str = "",
        events: str = "",
        max_events: int = 5000,
    ) -> str:
        number = time.monotonic_ns() if number is None else number
        return self._functions(
            "beat",
            [LEASE_MICROSECONDS, "", "", max_events, id, token, number, progress, usage, events],
        )[0].decode()

    def beats(self, attempts: Sequence[tuple[str, str]]) -> list[str]:
        """One beat for several, by id and token."""
        arguments = [part for id, token in attempts for part in (id, token, 1, "", "", "")]
        return [
            word.decode()
            for word in self._functions("beat", [LEASE_MICROSECONDS, "", "", 5000, *arguments])
        ]

    def note_worker(self, queue: str, name: str, slots: str = "0/1") -> None:
        """The beat of a worker that runs nothing."""
        self._functions("beat", [LEASE_MICROSECONDS, f"{queue}:{name}", slots, 5000])

    def checkpoint(
        self,
        id: str,
        token: str,
        *records: tuple[StepRecord, str],
        values: dict[str, bytes] | None = None,
        outcomes: dict[str, str] | None = None,
        dropped: tuple[str, ...] = (),
        usage: str = "",
        definition: str = "d1",
        number: int | None = None,
        events: str = "",
        step_events: Sequence[str] = (),
        max_events: int = 5000,
        progress: str = "[1,2,null]",
    ) -> str:
        told = [*step_events, *[""] * len(records)]
        rows = [
            part
            for (record, moment), event in zip(records, told, strict=False)
            for part in (record.id, write_record(record), moment, event)
        ]
        pairs = [part for pair in (outcomes or {}).items() for part in pair]
        outputs = [part for pair in (values or {}).items() for part in pair]
        counts = [len(records), len(outcomes or {}), len(values or {}), len(dropped)]
        number = time.monotonic_ns() if number is None else number
        args = [
            id,
            token,
            usage,
            events,
            max_events,
            number,
            progress,
            definition,
            *counts,
            *rows,
            *pairs,
            *outputs,
            *dropped,
        ]
        return self._functions("checkpoint", args).decode()

    def finish(
        self,
        id: str,
        token: str,
        status: str = "completed",
        outputs: str | bytes = '{"output":"done"}',
        events: str = "",
    ) -> str:
        outputs = outputs if status == "completed" else ""
        error = '{"type":"ValueError","message":"no","details":{}}' if status == "failed" else ""
        return self._functions("finish", [id, token, "", events, status, outputs, error]).decode()

    def release(
        self,
        id: str,
        token: str,
        how: str = "handed_back",
        delay: int = 0,
        reason: str = "It died.",
        events: str = "",
    ) -> str:
        return self._functions("release", [id, token, "", events, how, delay, reason]).decode()

    def let_leases_run_out(self) -> None:
        """Every running execution's lease is over, in the eyes of a reaper that was never away."""
        self.reap()
        for id in self.client.zrange("exec:leases", 0, -1):
            self.client.zadd("exec:leases", {id: 1})
        self.reap()

    def let_delays_be_over(self) -> None:
        for id in self.client.zrange("exec:delayed", 0, -1):
            self.client.zadd("exec:delayed", {id: 1})
        self.reap()

    def let_retention_be_over(self) -> None:
        for status in FINAL:
            for queue in ("processes", "threads", "unknown"):
                key = registry(status, queue)
                for id in self.client.zrange(key, 0, -1):
                    self.client.zadd(key, {id: LONG_AGO})
        self.reap()

    def stored(self, id: str, include: Include = Include.OUTPUTS) -> Execution:
        execution = self.store.get(id, "default", include)
        assert execution is not None
        return execution

    def log(self, id: str, count: int = 1000) -> list[Event]:
        """All events that are stored, read in pages. Their numbers have no gap, and the last one is
        the version.
        """
        events: list[Event] = []
        while True:
            page = self.store.events(id, "default", events[-1].number if events else 0, count)
            assert page is not None
            if not page.events:
                break
            events += page.events
        numbers = [event.number for event in events]
        assert numbers == list(range(page.first, page.version + 1))
        assert page.version == self.stored(id, Include.STATUS).version
        return events

    def types(self, id: str) -> list[str]:
        return [event.type for event in self.log(id)]

    def status(self, id: str) -> str | None:
        execution = self.store.get(id, "default")
        return execution.status.value if execution else None

    def listed(self, status: Status | None = None) -> set[str]:
        executions, total = self.store.lists.page(
            "default", index_keys("default", status), 0, 1000, descending=True
        )
        assert total == len(executions)
        return {execution.id for execution in executions}
