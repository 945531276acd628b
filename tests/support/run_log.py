"""Reads the log of an execution as the web side does, for tests of what workers tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.domain.events import Event
from app.domain.key import DEFAULT_TENANT
from app.settings import Settings
from app.store.executions import ExecutionStore


class RunLog:
    """The logs in one store."""

    def __init__(self, redis_url: str):
        self._store = ExecutionStore.connect(Settings(redis_url=redis_url))

    def read(self, execution_id: str) -> list[Event]:
        """All events. Checks that no number is missing. A page holds about 1 MiB of them."""
        events: list[Event] = []
        while True:
            after = events[-1].number if events else 0
            page = self._store.events(execution_id, DEFAULT_TENANT, after=after, count=100_000)
            assert page is not None
            first = after + 1 if events else page.first
            numbers = [event.number for event in page.events]
            assert numbers == list(range(first, first + len(numbers)))
            events += page.events
            if not events or events[-1].number == page.version:
                return events

    def types(self, execution_id: str) -> list[str]:
        return [event.type for event in self.read(execution_id)]

    def lines(self, execution_id: str) -> list[str]:
        """What the flow has logged."""
        return [event.data["message"] for event in self.read(execution_id) if event.type == "log"]

    def answers(self, execution_id: str) -> dict[tuple[str | None, int | None, int], str]:
        """The pieces of each answer, put together, by step, item and call."""
        answers: dict[tuple[str | None, int | None, int], str] = {}
        for event in self.read(execution_id):
            if event.type == "output.delta":
                key = (event.data["step"], event.data["item"], event.data["call"])
                answers[key] = answers.get(key, "") + event.data["text"]
        return answers

    def until(self, execution_id: str, happened: Callable[[list[Event]], object]) -> list[Event]:
        """Waits until the log is as wanted, and returns it."""
        deadline = time.monotonic() + 60
        while not happened(events := self.read(execution_id)):
            assert time.monotonic() < deadline, events
            time.sleep(0.02)
        return events

    def listen(self, execution_id: str) -> bool:
        """Follows the execution, as somebody who opens a stream does."""
        return self._store.listen(execution_id, DEFAULT_TENANT)

    def close(self) -> None:
        self._store.connection_pool.disconnect()


@contextmanager
def run_log(redis_url: str) -> Iterator[RunLog]:
    log = RunLog(redis_url)
    try:
        yield log
    finally:
        log.close()
