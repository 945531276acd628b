"""A stream is exactly the log, even if messages of the store are lost, repeated or late."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from app.catalog.model import Catalog
from app.domain.events import Event
from app.services import streams
from app.services.executions import ExecutionService
from app.services.streams import Item, LogService, Pause, Slots, Snapshot
from app.services.waiting import Stranger
from app.settings import Settings
from app.store.changes import Change, Watch
from tests.store.driver import Driver


class Unreliable:
    """Stands before the messages of a store and loses, repeats and delays them at random."""

    def __init__(self, driver: Driver, chance: random.Random):
        self._watching, self._chance = driver.store.watching, chance
        driver.store.watching = self.watching  # type: ignore[method-assign]
        self.lost = 0

    @contextmanager
    def watching(self, execution_id: str, **options: Any) -> Iterator[Watch]:
        with self._watching(execution_id, **options) as watch:
            yield _Watch(watch, self)  # type: ignore[misc]

    def disturbed(self, changes: list[Change]) -> list[Change]:
        found: list[Change] = []
        for change in changes:
            kind = self._chance.choice(("pass", "pass", "lose", "repeat", "swap"))
            self.lost += kind == "lose"
            if kind != "lose":
                found.append(change)
            if kind == "repeat":
                found.append(change)
            if kind == "swap":
                found.reverse()
        return found


class _Watch:
    def __init__(self, watch: Watch, by: Unreliable):
        self._watch, self._by = watch, by

    def wait(self, seconds: float) -> list[Change]:
        return self._by.disturbed(self._watch.wait(seconds))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)


@pytest.fixture
def driver(redis_client: redis.Redis) -> Driver:
    return Driver(redis_client)


def logs_of(driver: Driver, most: int = 10) -> LogService:
    catalog = Catalog({}, {})
    return LogService(ExecutionService(driver.store, catalog, Settings()), Slots(most))


def events_in(batches: Iterator[list[Item]]) -> list[Event]:
    return [item for items in batches for item in items if isinstance(item, Event)]


@pytest.mark.parametrize("after", [0, 2, None])
def test_lost_repeated_and_late_messages_change_nothing(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    # A lost message with nothing after it is found by the next regular look into the store.
    monkeypatch.setattr(streams, "PAUSE_SECONDS", 0.5)
    chance = random.Random(seed := random.randrange(1 << 30))
    print(f"seed {seed}")
    unreliable = Unreliable(driver, chance)
    id = driver.submit()
    [(_, token)] = driver.claim()
    stream = logs_of(driver).follow(id, "default", after, None)
    got: list[Event] = []
    follower = threading.Thread(
        target=lambda: got.extend(events_in(stream.batches(Stranger(), lambda: True)))
    )
    follower.start()
    for number in range(1, 200):
        driver.beat(id, token, events=json.dumps([number, f'"log",{{"message":"{number}"}}']))
        time.sleep(chance.random() * 0.005)
    driver.finish(id, token)
    follower.join(60)
    assert not follower.is_alive()
    whole = driver.store.events(id, "default", 0, 1000)
    assert whole is not None
    first = 2 if after is None else after
    assert got == list(whole.events)[first:]
    assert [event.number for event in got] == list(range(first + 1, 203))
    assert unreliable.lost > 5


def test_a_stream_that_nobody_may_have_any_more_ends(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAUSE_SECONDS", 0.1)
    stream = logs_of(driver).follow(driver.submit(), "default", None, None)
    answers = iter([True, True, False])
    items = [item for batch in stream.batches(Stranger(), lambda: next(answers)) for item in batch]
    assert [type(item) for item in items] == [Snapshot, Pause, Pause]


def test_an_execution_that_is_removed_ends_its_stream(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAUSE_SECONDS", 0.1)
    id = driver.submit()
    stream = logs_of(driver).follow(id, "default", None, None)
    driver.client.flushdb()
    assert events_in(stream.batches(Stranger(), lambda: True)) == []
    assert stream.is_over


def test_a_log_that_went_back_begins_again_with_a_snapshot(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover to a replica that had not got the last writes."""
    monkeypatch.setattr(streams, "PAUSE_SECONDS", 0.1)
    id = driver.submit()
    before = driver.client.dump(f"rq:job:{id}")
    driver.claim()
    stream = logs_of(driver).follow(id, "default", 0, None)
    batches = stream.batches(Stranger(), lambda: True)
    assert [type(item) for item in next(batches)] == [Event, Event]
    driver.client.restore(f"rq:job:{id}", 0, before, replace=True)
    again = next(item for items in batches for item in items if not isinstance(item, Pause))
    assert isinstance(again, Snapshot)
    assert json.loads(again.body)["version"] == again.after == 1
    batches.close()
