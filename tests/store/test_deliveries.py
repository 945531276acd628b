"""Webhook deliveries in the store: queued with the event, tried with a lease, never lost."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
    clean_registries,
)
from rq.serializers import JSONSerializer

from app.domain.delivery import Delivery, DeliveryStatus
from app.domain.execution import Callback
from app.settings import Settings
from app.store.inspection import Inspection
from app.store.statistics import Statistics
from tests.store.driver import Driver
from tools.embedded_store import EmbeddedStore

URL = "https://example.com/hook"
LEASE = 30_000_000
ALL = ("started", "retrying", "cancelling", "completed", "failed", "cancelled")


def ended(driver: Driver, status: str = "completed", events: tuple[str, ...] = ()) -> str:
    """An execution with a callback that has ended. Returns its id."""
    callback = Callback(URL, events) if events else Callback(URL)
    id = driver.submit(callback=callback)
    [(_, token)] = driver.claim()
    assert driver.finish(id, token, status) == status
    return id


def take(driver: Driver, count: int = 10, token: str = "t1") -> list[list[str]]:
    rows = driver.run("take_deliveries", token, "w1", count, LEASE)
    return [[value.decode() for value in row] for row in rows]


def note(
    driver: Driver, id: str, how: str, token: str = "t1", delay: int = 0, code: int = 500
) -> str:
    tried = json.dumps([code, None if how == "delivered" else "It did not work.", 0.25, "oh"])
    [word] = driver.run("note_tries", id, token, how, delay, f"{code // 100}xx", tried)
    return str(word.decode())


def deliveries(driver: Driver, id: str) -> tuple[Delivery, ...]:
    page = driver.store.deliveries.read(id, "default")
    assert page is not None
    return page.deliveries


def queued(driver: Driver) -> list[str]:
    return [id.decode() for id in driver.client.lrange("rq:queue:webhooks", 0, -1)]


def is_held(driver: Driver, id: str) -> bool:
    """Whether it is in a set that some process reads."""
    return id in queued(driver) or driver.client.zscore("exec:deliveries-due", id) is not None


def let_dues_be_over(driver: Driver) -> None:
    for id in driver.client.zrange("exec:deliveries-due", 0, -1):
        driver.client.zadd("exec:deliveries-due", {id: 1})
    driver.reap()


def test_the_end_and_its_delivery_are_one_step(driver: Driver) -> None:
    id = ended(driver)
    assert queued(driver) == [f"{id}-1"]
    [found] = deliveries(driver, id)
    assert (found.event, found.event_number, found.status) == ("completed", 3, "pending")
    assert found.tries == ()
    plain = driver.submit()
    [(_, token)] = driver.claim()
    driver.finish(plain, token)
    assert len(queued(driver)) == 1
    assert deliveries(driver, plain) == ()


def test_only_the_events_that_were_asked_for_are_queued(driver: Driver) -> None:
    id = driver.submit(callback=Callback(URL, ("started", "retrying", "failed")))
    [(_, token)] = driver.claim()
    driver.release(id, token, "failed")
    [(_, token)] = driver.claim()
    driver.finish(id, token, "failed")
    assert [found.event for found in deliveries(driver, id)] == [
        "started",
        "retrying",
        "started",
        "failed",
    ]
    numbers = [found.event_number for found in deliveries(driver, id)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("how", ["cancel", "cancel_running", "expire", "lose", "quarantine"])
def test_every_way_to_an_end_queues_one(driver: Driver, how: str) -> None:
    options: dict[str, Any] = {"expires_in_seconds": 0.0} if how == "expire" else {}
    id = driver.submit(callback=Callback(URL), max_attempts=1, **options)
    if how in ("cancel_running", "lose"):
        [(_, token)] = driver.claim()
    act: dict[str, Callable[[], object]] = {
        "cancel": lambda: driver.store.cancel(id, "default"),
        "cancel_running": lambda: (
            driver.store.cancel(id, "default"),
            driver.finish(id, token, "completed"),
        ),
        "expire": lambda: driver.reap(),
        "lose": lambda: driver.let_leases_run_out(),
        "quarantine": lambda: (
            driver.client.hset(f"rq:job:{id}", "created_at", "yesterday"),
            driver.status(id),
        ),
    }
    act[how]()
    status = driver.status(id)
    assert status in ("cancelled", "failed")
    assert [found.event for found in deliveries(driver, id)] == [status]
    assert queued(driver) == [f"{id}-1"]


def test_a_try_is_noted_once_and_by_its_own_token(driver: Driver) -> None:
    id = ended(driver)
    [row] = take(driver)
    assert row[:6] == [f"{id}-1", id, "default", URL, "completed", "3"]
    assert row[7] == "0"
    assert take(driver, token="t2") == []
    assert note(driver, row[0], "failed", token="t2") == "lost"
    assert note(driver, row[0], "delivered", code=204) == "ok"
    assert note(driver, row[0], "failed") == "lost"
    [found] = deliveries(driver, id)
    assert found.status == "delivered"
    [tried] = found.tries
    assert (tried.code, tried.error, tried.seconds, tried.answer) == (204, None, 0.25, "oh")
    assert found.ended_at is not None
    assert not is_held(driver, row[0])
    assert driver.client.zcard("exec:undelivered") == 0


def test_a_failed_try_is_made_again_when_it_is_due(driver: Driver) -> None:
    id = ended(driver)
    for made in range(3):
        [row] = take(driver, token=f"t{made}")
        assert row[7] == str(made)
        assert note(driver, row[0], "again", token=f"t{made}", delay=5_000_000) == "ok"
        [found] = deliveries(driver, id)
        assert found.status == "waiting"
        assert found.next_try_at is not None
        driver.reap()
        assert take(driver) == []
        let_dues_be_over(driver)
    [row] = take(driver)
    note(driver, row[0], "failed")
    [found] = deliveries(driver, id)
    assert (found.status, found.tries_made, len(found.tries)) == ("failed", 4, 4)
    assert driver.client.hget("exec:metrics", "wd:failed") == b"1"
    assert driver.client.hget("exec:metrics", "wt:5xx") == b"4"


def test_a_delivery_whose_worker_died_is_queued_again_and_its_late_note_changes_nothing(
    driver: Driver,
) -> None:
    id = ended(driver)
    [row] = take(driver)
    driver.reap()
    assert queued(driver) == []
    let_dues_be_over(driver)
    assert queued(driver) == [f"{id}-1"]
    [again] = take(driver, token="t2")
    assert again[7] == "0"  # the lost try is not one of the ten
    assert note(driver, row[0], "failed") == "lost"
    assert note(driver, row[0], "delivered", token="t2") == "ok"
    lost, tried = deliveries(driver, id)[0].tries
    assert (lost.code, tried.error) == (None, None)
    assert lost.error is not None


def lose(driver: Driver, times: int) -> list[list[str]]:
    """Has as many workers die in the middle of a try. Returns what the last one had taken."""
    for _ in range(times):
        rows = take(driver, token=secrets.token_hex(8))
        let_dues_be_over(driver)
    return rows


def test_a_delivery_that_makes_workers_die_uses_up_its_tries_and_fails(driver: Driver) -> None:
    id = ended(driver)
    [row] = lose(driver, 10)
    assert row[7] == "0"  # perhaps it is not the cause
    [row] = lose(driver, 9)
    assert row[7] == "8"
    assert deliveries(driver, id)[0].status == "pending"
    lose(driver, 1)
    [found] = deliveries(driver, id)
    assert (found.status, found.tries_made) == ("failed", 20)
    assert found.tries[-1].error == "The worker ended before it noted an answer."
    assert driver.client.zcard("exec:undelivered") == 0
    assert take(driver) == []
    assert driver.store.deliveries.redeliver(id, "default", 1) == "pending"
    [row] = lose(driver, 3)
    assert row[7] == "0"  # all is as with a new one


def test_what_a_stopping_worker_gives_back_is_at_the_front_and_counts_as_no_try(
    driver: Driver,
) -> None:
    first, second = ended(driver), ended(driver)
    [row] = take(driver, count=1)
    assert note(driver, row[0], "returned") == "ok"
    assert queued(driver) == [f"{first}-1", f"{second}-1"]
    assert deliveries(driver, first)[0].tries_made == 0
    [row] = take(driver, count=1)
    note(driver, row[0], "returned", delay=1_000_000)
    assert queued(driver) == [f"{second}-1"]
    let_dues_be_over(driver)
    assert queued(driver) == [f"{second}-1", f"{first}-1"]


def test_after_410_no_other_delivery_of_the_execution_is_sent(driver: Driver) -> None:
    id = driver.submit(callback=Callback(URL, ALL))
    [(_, token)] = driver.claim()
    other = ended(driver)
    driver.release(id, token, "failed")
    started, _, _ = take(driver, count=3)
    assert note(driver, started[0], "gone", code=410) == "ok"
    let_dues_be_over(driver)
    assert {row[1] for row in take(driver, token="t2")} == {other}
    assert [found.status for found in deliveries(driver, id)] == ["failed", "stopped"]
    [(_, token)] = driver.claim()
    driver.finish(id, token)
    assert len(deliveries(driver, id)) == 2
    assert driver.client.zcard("exec:undelivered") == 1  # the other's
    assert driver.store.deliveries.redeliver(id, "default", 2) == "pending"
    assert [row[0] for row in take(driver, token="t3")] == [f"{id}-2"]


def test_an_ended_delivery_is_sent_again_with_its_own_id_and_all_its_tries(driver: Driver) -> None:
    id = ended(driver)
    [row] = take(driver)
    note(driver, row[0], "failed")
    assert driver.store.deliveries.redeliver(id, "default", 1) == DeliveryStatus.PENDING
    assert driver.store.deliveries.redeliver(id, "default", 1) == DeliveryStatus.PENDING
    assert queued(driver) == [f"{id}-1"]
    assert driver.client.zcard("rq:failed:webhooks") == 0
    [row] = take(driver, token="t2")
    assert (row[0], row[7]) == (f"{id}-1", "0")
    assert driver.store.deliveries.redeliver(id, "default", 1) == DeliveryStatus.SENDING
    note(driver, row[0], "delivered", token="t2")
    [found] = deliveries(driver, id)
    assert (found.status, found.tries_made) == ("delivered", 2)


def test_one_that_waits_is_sent_at_once_if_somebody_asks(driver: Driver) -> None:
    id = ended(driver)
    [row] = take(driver)
    note(driver, row[0], "again", delay=3_600_000_000)
    assert driver.store.deliveries.redeliver(id, "default", 1) == "pending"
    assert queued(driver) == [f"{id}-1"]
    assert driver.client.zcard("rq:scheduled:webhooks") == 0


@pytest.mark.parametrize(("tenant", "number"), [("other", 1), ("default", 2), ("default", 0)])
def test_a_delivery_that_a_tenant_does_not_have_cannot_be_sent_again(
    driver: Driver, tenant: str, number: int
) -> None:
    id = ended(driver)
    assert driver.store.deliveries.redeliver(id, tenant, number) is None
    assert driver.store.deliveries.read(id, "other") is None
    assert driver.store.deliveries.read("exec_000000000000", "default") is None


def test_a_delivery_is_no_execution(driver: Driver) -> None:
    id = ended(driver)
    for name in (f"{id}-1", f"{id}-2"):
        assert driver.status(name) is None
        assert driver.store.cancel(name, "default") is None
    assert queued(driver) == [f"{id}-1"]


def test_many_deliveries_are_read_in_pages(driver: Driver) -> None:
    id = driver.submit(callback=Callback(URL, ("started",)))
    for _ in range(5):
        [(_, token)] = driver.claim()
        driver.release(id, token, "failed")
    page = driver.store.deliveries.read(id, "default", after=2, count=2)
    assert page is not None
    assert ([found.number for found in page.deliveries], page.total) == ([3, 4], 5)


@pytest.mark.parametrize("state", ["queued", "started", "scheduled", "finished", "canceled"])
def test_deliveries_leave_with_their_execution(driver: Driver, state: str) -> None:
    id = ended(driver)
    if state != "queued":
        [row] = take(driver)
    if state == "scheduled":
        note(driver, row[0], "again", delay=3_600_000_000)
    if state == "finished":
        note(driver, row[0], "delivered")
    if state == "canceled":
        note(driver, row[0], "returned")
        driver.client.hset(
            f"rq:job:{id}", "callback", json.dumps({"url": URL, "events": ["x"], "stopped": True})
        )
        assert take(driver, token="t2") == []
    driver.let_retention_be_over()
    left = {key for key in driver.client.scan_iter("*") if b"webhooks" in key or b"deliver" in key}
    assert left <= {b"rq:queues"}
    assert not driver.client.keys(f"rq:job:{id}*")
    assert not driver.client.exists("exec:undelivered")
    expired = driver.client.hget("exec:metrics", "wd:expired")
    assert expired == (None if state in ("finished", "canceled") else b"1")
    if state == "started":
        assert note(driver, row[0], "delivered") == "lost"
        assert not driver.client.exists(f"rq:job:{row[0]}")


def test_a_delivery_whose_execution_was_deleted_by_hand_ends_with_an_error_that_says_so(
    driver: Driver,
) -> None:
    id, other = ended(driver), ended(driver)
    driver.client.delete(f"rq:job:{id}")
    assert [row[1] for row in take(driver)] == [other]
    assert driver.client.hget(f"rq:job:{id}-1", "error") == b"Its execution has left the store."
    assert driver.client.hget(f"rq:job:{id}-1", "status") == b"failed"
    driver.reap()
    assert not driver.client.exists(f"rq:job:{id}-1")  # nobody could read it any more


@pytest.mark.parametrize("lost", ["queue", "one", "due"])
def test_what_fell_out_of_the_lists_comes_back(driver: Driver, lost: str) -> None:
    ids = [f"{ended(driver)}-1" for _ in range(5)]
    if lost == "queue":
        driver.client.delete("rq:queue:webhooks")
    elif lost == "one":
        driver.client.lrem("rq:queue:webhooks", 1, ids[2])
    else:
        take(driver, count=5)
        note(driver, ids[0], "again", delay=1)
        driver.client.delete("exec:deliveries-due")
    driver.reap()
    driver.reap()
    assert sorted(queued(driver)) == sorted(ids)
    assert sorted(row[0] for row in take(driver, token="t2")) == sorted(ids)


def test_an_entry_that_is_queued_twice_is_sent_once(driver: Driver) -> None:
    id = ended(driver)
    driver.client.rpush("rq:queue:webhooks", f"{id}-1", f"{id}-1", "nonsense", "no-1")
    assert [row[0] for row in take(driver)] == [f"{id}-1"]
    assert queued(driver) == []


KEYS = [
    *("exec:undelivered", "exec:deliveries-due", "exec:deliveries-repair", "rq:queue:webhooks"),
    *("rq:scheduled:webhooks", "rq:wip:webhooks", "rq:finished:webhooks", "rq:failed:webhooks"),
]


@pytest.mark.parametrize("kind", ["string", "list", "hash", "set"])
@pytest.mark.parametrize("key", KEYS)
def test_whatever_is_under_one_of_the_keys_executions_end_and_no_delivery_is_lost(
    driver: Driver, key: str, kind: str
) -> None:
    before = ended(driver)
    driver.overwrite(key, kind)
    during = ended(driver)
    assert driver.status(during) == "completed"
    try:
        take(driver)
    except redis.ResponseError as error:
        assert "WRONGTYPE" in str(error)  # noqa: PT017  either is right
    driver.reap()
    Statistics(driver.client, Settings()).read()
    assert [found.event for found in deliveries(driver, during)] == ["completed"]
    driver.client.delete(key)
    for turn in range(3):
        for id in (before, during):
            driver.client.zadd("exec:undelivered", {f"{id}-1": 1}, xx=True)
        let_dues_be_over(driver)
        for row in take(driver, token=f"turn{turn}"):
            note(driver, row[0], "delivered", token=f"turn{turn}")
    assert {deliveries(driver, id)[0].status for id in (before, during)} == {"delivered"}


@pytest.mark.parametrize(
    "field", ["status", "created_at", "event", "number", "tries", "before", "all", "type"]
)
def test_an_unreadable_delivery_ends_alone(driver: Driver, field: str) -> None:
    bad, good = ended(driver), ended(driver)
    key = f"rq:job:{bad}-1"
    if field in ("all", "type"):
        driver.client.delete(key)
        driver.client.set(key, "x") if field == "type" else driver.client.hset(key, "x", "y")
    elif field == "event":
        driver.client.hdel(key, "event")
    else:
        driver.client.hset(key, field, "nonsense")
    assert [row[1] for row in take(driver)] == [good]
    [found] = deliveries(driver, bad)
    assert (found.status, found.error) == ("failed", "Its record in the store was unreadable.")
    assert driver.client.zcard("exec:undelivered") == 1
    [report] = [json.loads(text) for text in driver.store.troubles()]
    assert (report["what"], report["id"]) == ("delivery_unreadable", f"{bad}-1")
    assert not is_held(driver, f"{bad}-1")


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"url":1,"events":[]}', '{"url":"u"}'])
def test_an_unreadable_callback_stops_no_execution(driver: Driver, text: str) -> None:
    id = driver.submit(callback=Callback(URL))
    [(_, token)] = driver.claim()
    driver.client.hset(f"rq:job:{id}", "callback", text)
    assert driver.finish(id, token) == "completed"
    assert queued(driver) == []
    reports = [json.loads(report)["what"] for report in driver.store.troubles()]
    assert reports == ([] if text == "" else ["delivery_refused"])


def test_an_unreadable_counter_of_deliveries_overwrites_none(driver: Driver) -> None:
    id = driver.submit(callback=Callback(URL, ("started", "completed")))
    [(_, token)] = driver.claim()
    driver.client.hset(f"rq:job:{id}", "deliveries", "many")
    driver.finish(id, token)
    assert [found.event for found in deliveries(driver, id)] == ["started", "completed"]


def test_no_script_fails_on_a_full_store(driver: Driver) -> None:
    first = driver.submit(callback=Callback(URL))
    [(_, token)] = driver.claim()
    driver.client.config_set("maxmemory", 1)
    try:
        assert driver.finish(first, token) == "completed"
        [row] = take(driver)
        assert note(driver, row[0], "again", delay=1) == "ok"
        driver.reap()
        [row] = take(driver, token="t2")
        assert note(driver, row[0], "delivered", token="t2") == "ok"
        assert driver.store.deliveries.redeliver(first, "default", 1) == "pending"
    finally:
        driver.client.config_set("maxmemory", 0)


def test_what_rq_says_of_a_delivery_is_true(driver: Driver) -> None:
    client = driver.client
    names = ("queued", "started", "scheduled", "finished", "failed", "canceled")
    ids = {name: f"{ended(driver)}-1" for name in reversed(names)}
    take(driver, count=5)
    note(driver, ids["scheduled"], "again", delay=60_000_000)
    note(driver, ids["finished"], "delivered")
    note(driver, ids["failed"], "failed")
    stopped = ids["canceled"].removesuffix("-1")
    client.hset(
        f"rq:job:{stopped}", "callback", json.dumps({"url": URL, "events": [""], "stopped": True})
    )
    note(driver, ids["canceled"], "again")
    client.zadd("exec:deliveries-due", {ids["canceled"]: 1})
    driver.reap()
    client.lmove("rq:queue:webhooks", "rq:queue:webhooks", "RIGHT", "LEFT")
    take(driver, count=1, token="t2")

    queue = Queue("webhooks", connection=client, serializer=JSONSerializer)
    for name, id in ids.items():
        job = Job.fetch(id, connection=client, serializer=JSONSerializer)
        assert job.get_status() == name
        assert (job.func_name, job.origin) == ("app.domain.payload.delivery", "webhooks")
        assert job.meta["status"] == deliveries(driver, id.removesuffix("-1"))[0].status
        assert job.created_at is not None
        assert (job.ended_at is not None) == (name in ("finished", "failed", "canceled"))
    assert [job.id for job in queue.jobs] == [ids["queued"]]
    registries: dict[type[BaseRegistry], str] = {
        StartedJobRegistry: "started",
        ScheduledJobRegistry: "scheduled",
        FinishedJobRegistry: "finished",
        FailedJobRegistry: "failed",
        CanceledJobRegistry: "canceled",
    }
    for _ in range(2):
        for found, name in registries.items():
            listed = found("webhooks", connection=client, serializer=JSONSerializer).get_job_ids()
            assert listed == [ids[name]], name
        clean_registries(queue)
    assert "webhooks" in {known.name for known in Queue.all(connection=client)}


def test_the_age_of_the_oldest_delivery_is_counted_from_its_event(driver: Driver) -> None:
    statistics = Statistics(driver.client, Settings())
    assert statistics.read().deliveries.undelivered == 0
    id = ended(driver)
    ended(driver)
    seconds, micros = driver.client.time()
    past = seconds * 1_000_000 + micros - 90_000_000
    driver.client.zadd("exec:undelivered", {f"{id}-1": past})
    found = statistics.read().deliveries
    assert (found.undelivered, found.queued) == (2, 2)
    assert 90 <= found.oldest_seconds < 120
    assert found.queue_oldest_seconds < 30


def test_what_rq_lists_of_deliveries_that_are_gone_is_removed(driver: Driver) -> None:
    trying, gone = ended(driver), ended(driver)
    take(driver)
    driver.client.delete(f"rq:job:{gone}-1")
    driver.client.sadd("rq:workers:webhooks", "rq:worker:long-gone")
    driver.reap()
    listed = [name.decode() for name in driver.client.zrange("rq:wip:webhooks", 0, -1)]
    assert listed == [f"{trying}-1:1"]
    assert not driver.client.exists("rq:workers:webhooks")


def test_the_operator_sees_the_deliveries_of_an_execution(
    driver: Driver, store_server: EmbeddedStore
) -> None:
    id = ended(driver)
    url = f"{store_server.url.removesuffix('/0')}?db=1"
    found = Inspection(Settings(redis_url=url)).everything(id)["webhooks"]
    assert found["1"]["event"] == b"completed"
    driver.client.hset(f"rq:job:{id}", "deliveries", "999999999999")
    assert len(Inspection(Settings(redis_url=url)).everything(id)["webhooks"]) == 20
