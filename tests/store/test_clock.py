"""The store's clock is set back or forward while executions run: none of them waits for the
difference.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.domain.execution import Callback
from app.settings import Settings
from app.store import scripts
from app.store.scripts import Library
from app.store.statistics import Statistics
from tests.store.driver import LONG_AGO, Driver, registry

HOUR = 3600 * 1_000_000
LEASE = 12 * 1_000_000

SetClock = Callable[[int], object]


@pytest.fixture
def set_clock(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets the clock of the scripts, by so many microseconds."""
    time = "return time[1] * 1000000 + time[2]\n"
    assert time in scripts.text()
    shifted = f"{time.strip()} + (call('GET', 'test:clock') or 0)\n"
    library = Library.of(scripts.text().replace(time, shifted))
    monkeypatch.setattr("app.store.functions.library", lambda: library)
    monkeypatch.setattr("app.store.together.library", lambda: library)
    return lambda microseconds: redis_client.set("test:clock", microseconds)


@pytest.fixture
def driver(redis_client: redis.Redis, set_clock: SetClock) -> Driver:
    return Driver(redis_client)


def left(driver: Driver, key: str, member: str, shift: int) -> float:
    """Microseconds from now to a member's time."""
    seconds, rest = driver.client.time()
    return float(driver.client.zscore(key, member)) - (seconds * 1_000_000 + rest + shift)


def test_a_dead_workers_lease_runs_out_though_the_clock_went_back(
    driver: Driver, set_clock: SetClock
) -> None:
    id = driver.submit()
    driver.claim()
    driver.reap()
    set_clock(-HOUR)
    driver.reap()
    assert left(driver, "exec:leases", id, -HOUR) <= LEASE
    set_clock(-HOUR + LEASE // 3)
    driver.reap()
    assert driver.status(id) == "running"
    for third in (2, 3, 4):
        set_clock(-HOUR + third * LEASE // 3)
        driver.reap()
    assert driver.status(id) == "pending"


def test_a_living_worker_keeps_its_lease_when_the_clock_is_set(
    driver: Driver, set_clock: SetClock
) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    for shift in (-HOUR, HOUR, 0):
        set_clock(shift)
        driver.reap()
        assert driver.beat(id, token) == "ok"
        assert left(driver, "exec:leases", id, shift) <= LEASE


def test_a_killed_worker_is_not_counted_for_an_hour(driver: Driver, set_clock: SetClock) -> None:
    driver.note_worker("processes", "w1")
    set_clock(-HOUR)
    driver.reap()
    assert left(driver, "exec:workers", "processes:w1", -HOUR) <= 0


def test_a_retry_does_not_wait_for_an_hour_longer(driver: Driver, set_clock: SetClock) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.release(id, token, "failed", delay=60_000_000)
    driver.reap()
    set_clock(-HOUR)
    driver.reap()
    assert 0 < left(driver, "exec:delayed", id, -HOUR) <= 60_000_000


def test_what_ended_in_the_future_is_kept_as_long_as_what_ended_now(
    driver: Driver, set_clock: SetClock
) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.finish(id, token)
    set_clock(-HOUR)
    driver.reap()
    now_seconds, _ = driver.client.time()
    assert driver.client.zscore(registry("completed"), id) <= LONG_AGO + now_seconds - 3600


@pytest.mark.parametrize("score", ["+inf", 1e300])
@pytest.mark.parametrize(
    "key", ["exec:leases", "exec:workers", "exec:delayed", "rq:failed:processes"]
)
def test_no_time_is_forever(driver: Driver, key: str, score: str | float) -> None:
    driver.client.zadd(key, {"processes:x": score})
    driver.reap()
    assert not driver.client.zcount(key, 2**53, "+inf")


def test_a_webhook_does_not_wait_for_an_hour_longer(driver: Driver, set_clock: SetClock) -> None:
    id = driver.submit(callback=Callback("https://example.com/"))
    [(_, token)] = driver.claim()
    driver.finish(id, token)
    driver.run("take_deliveries", "t", "w1", 1, LEASE)
    driver.run("note_tries", f"{id}-1", "t", "again", 5_000_000, "5xx", '[500,"No.",0.1,""]')
    driver.reap()
    set_clock(-HOUR)
    driver.reap()
    assert left(driver, "exec:deliveries-due", f"{id}-1", -HOUR) <= 5_000_000
    assert Statistics(driver.client, Settings()).read().deliveries.oldest_seconds < 60
