"""Another program has overwritten a key or a record: no other execution or target is affected."""

from __future__ import annotations

import json

import pytest
import redis

from app.domain.errors import StoreRefused
from app.settings import Settings
from app.store.counters import Reports
from app.store.reaper import Troubles
from app.store.statistics import Statistics
from tests.store.driver import FINAL, LONG_AGO, Driver, registry

POISONED = "exec:index:default:running:agent:poisoned"


def expired(driver: Driver) -> None:
    """All leases, now, for a reaper that was never away."""
    driver.reap()
    for id in driver.client.zrange("exec:leases", 0, -1):
        driver.client.zadd("exec:leases", {id: 1})


@pytest.mark.parametrize("many", [1, 250])
def test_what_cannot_be_reaped_holds_up_nobody(driver: Driver, many: int) -> None:
    poisoned = [driver.submit(target_id="poisoned") for _ in range(many)]
    sound = driver.submit()
    driver.claim(count=many + 1)
    driver.client.set(POISONED, "somebody else's")
    expired(driver)
    driver.client.zadd("exec:leases", {sound: 2})  # behind them all
    driver.reap()
    assert driver.status(sound) == "pending"
    assert {driver.status(id) for id in poisoned} == {"running"}
    assert driver.client.zcard("exec:leases") == many
    reports = [json.loads(report) for report in driver.store.troubles()]
    assert reports
    assert {report["id"] for report in reports} <= set(poisoned)
    assert all("WRONGTYPE" in report["reason"] for report in reports)
    driver.client.delete(POISONED)
    driver.let_leases_run_out()
    assert {driver.status(id) for id in poisoned} == {"pending"}
    assert driver.stored(poisoned[0]).attempts[0].number == 1
    assert driver.client.hmget(f"rq:job:{poisoned[0]}", "lost", "deaths") == [
        b"0",
        b"1",
    ]  # not twice


def test_what_cannot_be_claimed_holds_up_nobody_and_a_lease_holds_it(driver: Driver) -> None:
    poisoned, sound = driver.submit(target_id="poisoned"), driver.submit()
    driver.client.set(POISONED, "somebody else's")
    assert [id for id, _ in driver.claim(count=5)] == [sound]
    assert driver.client.zscore("exec:leases", poisoned) is not None
    assert driver.client.zscore("exec:waiting", poisoned) is not None
    driver.client.delete(POISONED)
    driver.let_leases_run_out()
    driver.let_delays_be_over()
    assert poisoned in [id for id, _ in driver.claim(count=5)]


def test_a_start_that_cannot_be_indexed_stores_nothing(driver: Driver) -> None:
    driver.client.set("exec:index:default:pending:agent:poisoned", "x")
    with pytest.raises(StoreRefused):
        driver.submit(target_id="poisoned")
    assert not driver.client.keys("rq:job:*")
    assert not driver.client.exists("exec:waiting", "rq:queue:processes")
    driver.submit()


def test_an_end_that_is_refused_still_leaves_by_its_retention(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.client.set("exec:index:default:completed:agent", "x")
    with pytest.raises(redis.ResponseError):
        driver.finish(id, token)
    assert driver.client.zscore("exec:leases", id) is not None
    driver.client.delete("exec:index:default:completed:agent")
    assert driver.finish(id, token) == "completed"
    driver.let_retention_be_over()
    assert not driver.client.keys(f"rq:job:{id}*")


def test_a_requeue_that_is_refused_is_held_by_its_lease_and_counts_nothing(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.client.set("exec:index:default:pending:agent", "x")
    for _ in range(2):
        with pytest.raises(redis.ResponseError):
            driver.release(id, token, "failed")
    assert driver.client.zscore("exec:leases", id) is not None
    assert driver.client.hget(f"rq:job:{id}", "retried") is None
    assert driver.client.hget(f"rq:job:{id}", "history") is None


KEYS = [
    *(
        "exec:leases",
        "exec:waiting",
        "exec:delayed",
        "exec:reaped",
        "exec:workers",
        "exec:slots",
        "exec:metrics",
    ),
    *("exec:grace", "exec:repair", "exec:missing", "exec:troubles", "exec:nothing"),
    *(registry(status) for status in FINAL),
    *("rq:queue:threads", "rq:workers", "rq:workers:threads", "exec:reported:x"),
]


@pytest.mark.parametrize("kind", ["string", "list", "hash"])
@pytest.mark.parametrize("key", KEYS)
def test_a_reaper_does_the_rest_whatever_is_under_one_of_its_keys(
    driver: Driver, key: str, kind: str
) -> None:
    lost, due, old = driver.submit(), driver.submit(), driver.submit()
    tokens = dict(driver.claim(count=3))
    driver.release(due, tokens[due], "failed", delay=60_000_000)
    driver.finish(old, tokens[old], "failed")
    driver.reap()
    driver.overwrite(key, kind)
    if key != "exec:leases":
        driver.client.zadd("exec:leases", {lost: 1}, xx=True)
    if key != "exec:delayed":
        driver.client.zadd("exec:delayed", {due: 1}, xx=True)
    if key != registry("failed"):
        driver.client.zadd(registry("failed"), {old: LONG_AGO}, xx=True)
    driver.store.reap()
    # Where the last reap is not known, the store may have been away: leases are granted once more.
    assert key in ("exec:leases", "exec:waiting", "exec:reaped") or driver.status(lost) == "pending"
    assert key in ("exec:leases", "exec:delayed") or driver.stored(due).phase == "queued"
    assert key == registry("failed") or driver.status(old) is None
    Statistics(driver.client, Settings()).read()
    driver.note_worker("processes", "w1")
    reports = Reports()
    reports.add({"mc:m": 1})
    Statistics(driver.client, Settings()).add(reports)


def test_what_was_reported_before_and_makes_no_sense_does_not_stop_a_reporter(
    driver: Driver,
) -> None:
    driver.client.rpush("exec:reported:me", "x")
    driver.run("count", "me", 1, "mc:m", 1)
    assert driver.client.hget("exec:metrics", "mc:m") == b"1"


@pytest.mark.parametrize("part", ["data", "steps"])
def test_what_was_asked_or_done_and_is_of_another_kind_ends_as_unreadable(
    driver: Driver, part: str
) -> None:
    id, sound = driver.submit(), driver.submit()
    driver.client.delete(f"rq:job:{id}:{part}")
    driver.client.rpush(f"rq:job:{id}:{part}", "x")
    assert [claimed for claimed, _ in driver.claim(count=5)] == [sound]
    failure = driver.stored(id).failure
    assert failure is not None
    assert failure.type == "RecordUnreadable"


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("found_by", ["get", "cancel", "list", "reap"])
def test_a_record_that_makes_no_sense_ends_as_failed_whoever_finds_it(
    driver: Driver, found_by: str, running: bool
) -> None:
    id, sound = driver.submit(), driver.submit()
    if running:
        driver.claim(count=2)
    driver.client.hset(f"rq:job:{id}", "created_at", "yesterday")
    find = {
        "get": lambda: driver.status(id),
        "cancel": lambda: driver.store.cancel(id, "default"),
        "list": driver.listed,
        "reap": lambda: (driver.client.delete("rq:queue:processes"), driver.let_leases_run_out()),
    }
    find[found_by]()
    failure = driver.stored(id).failure
    assert failure is not None
    assert (failure.type, failure.details) == ("RecordUnreadable", {"agent_id": "echo"})
    assert driver.store.cancel(id, "default") == "failed"
    assert driver.listed() == {id, sound}
    assert driver.client.zscore(registry("failed"), id) is not None
    assert [json.loads(report)["id"] for report in driver.store.troubles()] == [id]
    assert driver.client.hget("exec:metrics", "u:unreadable") == b"1"
    driver.let_retention_be_over()
    assert driver.status(id) is None


def test_the_same_trouble_is_logged_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "app.store.reaper.log.error",
        lambda _, **fields: logged.append((fields["what"], fields["id"])),
        raising=False,
    )
    troubles = Troubles()
    report = json.dumps({"what": "reap_refused", "id": "exec:leases", "reason": "WRONGTYPE"})
    troubles.log([report, report, "garbage"])
    troubles.log([report])
    assert logged == [("reap_refused", "exec:leases"), ("report_unreadable", "exec:troubles")]


def test_workers_that_are_gone_leave_what_rq_knows_of_them(driver: Driver) -> None:
    client = driver.client
    driver.note_worker("processes", "killed")
    driver.note_worker("processes", "living")
    client.hset("rq:worker:killed", "hostname", "h")
    client.hset("rq:worker:living", "hostname", "h")
    client.zadd("exec:workers", {"processes:killed": 1})
    client.sadd("rq:workers", "rq:worker:long-gone")
    client.sadd("rq:workers:threads", "rq:worker:long-gone")
    driver.reap()
    assert (
        client.smembers("rq:workers")
        == client.smembers("rq:workers:processes")
        == {b"rq:worker:living"}
    )
    assert client.exists("rq:workers:threads", "rq:worker:killed") == 0


def test_a_worker_whose_registration_was_lost_is_registered_by_its_beat(driver: Driver) -> None:
    driver.note_worker("processes", "w1")
    driver.client.flushdb()
    driver.note_worker("processes", "w1")
    assert (
        driver.client.smembers("rq:workers")
        == driver.client.smembers("rq:workers:processes")
        == {b"rq:worker:w1"}
    )
