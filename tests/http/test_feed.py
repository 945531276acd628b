"""All executions of a tenant on one stream: every change of a status, and nothing else."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.http.test_streams import Run, _try
from tests.store.driver import Driver
from tests.support.pace import within
from tests.support.service import Service
from tests.support.sse import Sent, Stream
from tools.embedded_store import EmbeddedStore

PATH = "/api/v1/events"
FEED = "exec:changes:default"


@pytest.fixture
def without_workers(shared_service: Callable[..., Service]) -> Service:
    return shared_service(workers=0)


def follow(service: Service, query: str = "", *headers: str) -> Stream:
    return Stream(service.port, PATH + query, *headers)


def driver_of(service: Service) -> Driver:
    return Driver(redis.Redis.from_url(service.env["REDIS_URL"]))


def what(event: Sent) -> tuple[str, str, int]:
    body = event.json
    assert body["type"] == event.type
    return body["execution_id"], event.type, body["id"]


def test_every_change_of_a_status_is_heard_in_order_and_nothing_else(service: Service) -> None:
    with follow(service) as opened:
        assert opened.status == 200
        assert opened.headers["content-type"] == "text/event-stream"
        assert opened.headers["cache-control"] == "no-cache, no-transform"
        id = service.start("behaves", {"do": "progress", "steps": 3, "pause": 0.2})
        failed = service.start("behaves", {"do": "fail"})
        heard: list[tuple[str, str, int]] = []
        for event in opened.events():
            heard.append(what(event))
            if {(id, "execution.completed"), (failed, "execution.failed")} <= {
                (one, type) for one, type, _ in heard
            }:
                break
    mine = [(type, number) for one, type, number in heard if one == id]
    assert [type for type, _ in mine] == [
        "execution.created",
        "execution.started",
        "execution.completed",
    ]
    assert mine[-1][1] == service.status(id)["version"]
    assert [type for one, type, _ in heard if one == failed] == [
        "execution.created",
        "execution.started",
        "execution.failed",
    ]


def test_an_event_names_the_target_and_its_tags(without_workers: Service) -> None:
    with follow(without_workers) as opened:
        id = without_workers.start("behaves", tags=["nightly", "b\u00e9ta"])
        [event] = opened.until("execution.created")
    body = event.json
    assert body.pop("at").endswith("Z")
    assert body == {
        "id": 1,
        "type": "execution.created",
        "execution_id": id,
        "data": {"type": "agent", "target_id": "behaves", "tags": ["nightly", "b\u00e9ta"]},
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?type=pipeline", {"pipeline"}),
        ("?type=agent", {"plain", "tagged"}),
        ("?target_id=echo", {"plain"}),
        ("?tag=red", {"tagged"}),
        ("?tag=red&type=pipeline", set()),
        ("?tag=re", set()),
        ("", {"plain", "tagged", "pipeline"}),
    ],
)
def test_filters_choose_by_target_and_tag(
    without_workers: Service, query: str, expected: set[str]
) -> None:
    driver = driver_of(without_workers)
    with follow(without_workers, query) as opened:
        ids = {
            driver.submit(): "plain",
            driver.submit(target_id="other", tags=("red", "blue")): "tagged",
            driver.submit(target_id="flow", type="pipeline"): "pipeline",
        }
        marker = driver.submit(type="pipeline", target_id="echo", tags=("red",))
        heard = {}
        if expected or query == "?tag=red&type=pipeline":
            for event in opened.events():
                heard[event.json["execution_id"]] = event
                if event.json["execution_id"] == marker or len(heard) == len(expected):
                    break
    assert {ids[id] for id in heard if id in ids} == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("type=x", "type"),
        ("after=x", "after"),
        ("after=1", "after"),
        ("tag=", "tag"),
        ("status=failed", "status"),
    ],
)
def test_a_wrong_parameter_is_refused(without_workers: Service, query: str, field: str) -> None:
    refused = without_workers.get(f"/events?{query}")
    assert refused.status_code == 400
    assert [error["field"] for error in refused.json()["errors"]] == [field]


def test_disconnects_lose_and_repeat_nothing(without_workers: Service) -> None:
    """Not even for a client that had heard nothing yet."""
    driver = driver_of(without_workers)
    chance = random.Random(seed := random.randrange(1 << 30))
    print(f"seed {seed}")
    got: list[list[Sent]] = [[] for _ in range(5)]
    failures: list[BaseException] = []
    is_over = threading.Event()
    ready = threading.Barrier(6)

    def follow_on(mine: list[Sent], luck: random.Random) -> None:
        try:
            last, is_first = "", True
            while not (mine and mine[-1].json["data"]["target_id"] == "last"):
                with follow(without_workers, "", f"Last-Event-ID: {last}") as opened:
                    opened.parser._id = last
                    left = luck.randrange(6)
                    for piece in opened.body():
                        mine += opened.parser.feed(piece)
                        last = opened.parser.last_id
                        if is_first and last:
                            is_first = False
                            ready.wait(60)
                        left -= 1
                        if left < 0:
                            break
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [
        threading.Thread(target=follow_on, args=(mine, random.Random(chance.random())))
        for mine in got
    ]
    for thread in threads:
        thread.start()
    ready.wait(60)
    ids = []
    for _ in range(300):
        ids += [driver.submit() for _ in range(chance.randrange(4))]
        time.sleep(chance.random() * 0.02)
    ids.append(driver.submit(target_id="last"))
    for thread in threads:
        thread.join(within(60))
    is_over.set()
    assert not failures, failures
    for mine in got:
        assert [event.json["execution_id"] for event in mine] == ids


def test_a_client_that_was_away_for_too_long_is_told_of_the_gap(
    make_service: Callable[..., Service],
) -> None:
    # Of its own: while somebody follows the feed, its process keeps changes longer than the store.
    service = make_service(workers=0)
    driver = driver_of(service)
    driver.submit()
    first = driver.client.xrange(FEED, count=1)[0][0].decode()
    _fill(driver.client, 10_200)
    driver.submit(target_id="last")
    with follow(service, "", f"Last-Event-ID: {first}") as opened:
        events = opened.events()
        gap, second = next(events), next(events)
        assert gap.type == "stream.gap"
        assert gap.json == {"after": first, "before": second.id}
        heard = 1
        for event in events:
            heard += 1
            if event.json["data"]["target_id"] == "last":
                break
        assert 10_000 <= heard <= 10_201
    with follow(service, "", f"Last-Event-ID: {second.id}") as opened:
        assert next(opened.events()).type == "execution.created"


def test_a_feed_beyond_the_limit_says_all_there_is_and_when_to_come_back(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, MAX_STREAMS=0)
    _fill(driver_of(service).client, 1_800)
    with follow(service, "?after=0-0") as opened:
        assert len(list(opened.events())) == 1_800
        assert opened.is_complete
        assert opened.parser.retry is not None
        assert opened.parser.retry >= 10_000


def _fill(client: redis.Redis, count: int) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(count):
            change = f'[1,"exec_{number:020}","created","agent","echo",null]'
            pipe.xadd(FEED, {"e": change}, maxlen=10_000, approximate=True)
        pipe.execute()


def test_what_others_write_between_the_changes_is_left_out(without_workers: Service) -> None:
    driver = driver_of(without_workers)
    with follow(without_workers) as opened:
        for odd in ("", "x", "[]", "[1,2,3,4,5,6]", '[1,"a","nonsense","agent","b",null]', "[" * 9):
            driver.client.xadd(FEED, {"e": odd})
        driver.client.xadd(FEED, {"other": "field"})
        id = driver.submit()
        [event] = opened.until("execution.created")
    assert event.json["execution_id"] == id


def test_a_key_of_another_type_keeps_nobody_else_from_his_feed(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, API_KEYS="a:key-of-tenant-a-0123,b:key-of-tenant-b-0123")
    driver = driver_of(service)
    driver.client.set("exec:changes:a", "no stream")
    with (
        follow(service, "", "X-API-Key: key-of-tenant-a-0123") as broken,
        follow(service, "", "X-API-Key: key-of-tenant-b-0123") as opened,
    ):
        assert broken.status == 200
        id = driver.submit(tenant="b")
        [event] = opened.until("execution.created")
        assert event.json["execution_id"] == id


def test_a_store_that_restarts_or_loses_its_data_does_not_end_the_feed(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(redis_url=own_store.url, workers=0)
    driver = driver_of(service)
    with follow(service) as opened:
        first = driver.submit()
        assert opened.until("execution.created")[-1].json["execution_id"] == first
        own_store.kill()
        time.sleep(1)
        own_store.start()
        ids: list[str] = []
        _try(lambda: ids.append(driver.submit()))
        assert opened.until("execution.created")[-1].json["execution_id"] == ids[0]
        driver.client.flushdb()
        time.sleep(0.1)
        after = driver.submit()
        heard = opened.until("execution.created")
        assert heard[-1].json["execution_id"] == after
    # Whoever comes with a place in what was lost is told so.
    driver.client.flushdb()
    with follow(service, "", f"Last-Event-ID: {heard[-1].id}") as opened:
        assert next(opened.events()).type == "stream.gap"


def test_many_followers_of_many_tenants_need_one_connection(
    make_service: Callable[..., Service],
) -> None:
    tenants = [f"t{number}" for number in range(10)]
    service = make_service(
        workers=0, API_KEYS=",".join(f"{name}:key-of-tenant-{name}-0123" for name in tenants)
    )
    driver = driver_of(service)
    before: int = driver.client.info("clients")["connected_clients"]
    opened = [
        follow(service, "", f"X-API-Key: key-of-tenant-{name}-0123")
        for name in tenants
        for _ in range(5)
    ]
    try:
        ids = {name: driver.submit(tenant=name) for name in tenants}
        heard = [one.until("execution.created")[-1].json["execution_id"] for one in opened]
        assert heard == [ids[name] for name in tenants for _ in range(5)]
        assert driver.client.info("clients")["connected_clients"] - before <= 8
    finally:
        for one in opened:
            one.close()


def test_the_feed_is_a_stream_only(without_workers: Service) -> None:
    refused = without_workers.get("/events", headers={"Accept": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")
    run = Run(without_workers)
    run.finish()
    answer: Any = without_workers.http.head(f"{without_workers.url}{PATH}", timeout=20)
    assert answer.status_code == 200
