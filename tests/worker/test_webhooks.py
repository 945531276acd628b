"""Webhooks from a real worker to a receiver that answers, fails, is slow, or is not there."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from app.domain.delivery import Delivery
from app.domain.execution import Callback
from app.store.executions import ExecutionStore
from tests.store.driver import Driver
from tests.support.receiver import SECRET, Answer, Receiver
from tests.support.service import Service, free_port

Make = Callable[..., Service]

FAST = ",".join(["0.05"] * 9)
"""The pauses of ten tries, for tests."""

OPTIONS: dict[str, Any] = {
    "WEBHOOK_SECRET": SECRET,
    "WEBHOOK_ALLOW_PRIVATE": 1,
    "WEBHOOK_PAUSES": FAST,
    "LEASE": 2,  # six reaps in this time: what is due is not queued sooner
}
NO_FLOWS = {"WORKER_THREADS": 0, "WORKER_PROCESSES": 0}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def store_of(service: Service) -> ExecutionStore:
    return driver_of(service).store


def driver_of(service: Service) -> Driver:
    return Driver(redis.Redis.from_url(service.env["REDIS_URL"]))


def delivery(service: Service, id: str) -> Delivery:
    page = store_of(service).deliveries.read(id, "default")
    assert page is not None
    assert page.total == 1
    return page.deliveries[0]


def until(service: Service, id: str, *statuses: str, seconds: float = 60) -> Delivery:
    deadline = time.monotonic() + seconds
    while (found := delivery(service, id)).status not in statuses:
        assert time.monotonic() < deadline, (found, service.output("worker0")[-3000:])
        time.sleep(0.02)
    return found


def ended(
    driver: Driver, url: str, outputs: str = '{"output":"done"}', status: str = "completed"
) -> str:
    """An execution that has ended, without a flow."""
    id = driver.submit(callback=Callback(url))
    [(_, token)] = driver.claim()
    driver.finish(id, token, status, outputs)
    return id


def test_the_end_of_an_execution_is_sent_as_its_status_shows_it(
    make_service: Make, receiver: Receiver
) -> None:
    service = make_service(**OPTIONS)
    id = service.start(
        "behaves", {"do": "echo", "text": "Grüße"}, callback_url=f"{receiver.url}?token=1"
    )
    [received] = receiver.until(1)
    assert receiver.unsigned == 0
    assert (received.path, received.id) == ("/hook?token=1", f"{id}-1")
    body = service.ended(id)
    assert received.body["type"] == "execution.completed"
    assert received.body["data"] == body
    assert received.body["timestamp"] == body["completed_at"]
    found = until(service, id, "delivered")
    [tried] = found.tries
    assert (tried.code, tried.error) == (204, None)
    assert abs(time.time() - int(received.headers["webhook-timestamp"])) < 60
    assert SECRET not in service.output("worker0")


def test_a_failure_and_its_reason_are_sent(make_service: Make, receiver: Receiver) -> None:
    service = make_service(**OPTIONS)
    id = service.start("behaves", {"do": "fail"}, callback_url=receiver.url)
    [received] = receiver.until(1)
    assert received.body["type"] == "execution.failed"
    assert received.body["data"]["error"] == service.ended(id)["error"]


def test_a_receiver_that_fails_nine_times_gets_the_event_at_the_tenth(
    make_service: Make, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Answer(500 if len(receiver.received) < 10 else 200, b"x" * 2000)
    service = make_service(**OPTIONS, **NO_FLOWS)
    id = ended(driver_of(service), receiver.url)
    found = until(service, id, "delivered", "failed")
    assert found.status == "delivered"
    assert [tried.code for tried in found.tries] == [500] * 9 + [200]
    assert {len(tried.answer) for tried in found.tries} == {1024}
    assert receiver.ids() == [f"{id}-1"] * 10
    assert len({received.headers["webhook-signature"] for received in receiver.received}) > 1


def test_after_ten_failures_it_has_failed_and_can_be_sent_again(
    make_service: Make, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Answer(302, headers={"Location": f"{receiver.url}/elsewhere"})
    service = make_service(**OPTIONS, **NO_FLOWS)
    id = ended(driver_of(service), receiver.url)
    found = until(service, id, "failed")
    assert (found.tries_made, len(receiver.received)) == (10, 10)
    assert {received.path for received in receiver.received} == {"/hook"}
    deadline = time.monotonic() + 10
    while '"webhook_failed"' not in service.output("worker0"):  # the log is written in pieces
        assert time.monotonic() < deadline
        time.sleep(0.05)
    receiver.answer = lambda _: Answer(200)
    assert store_of(service).deliveries.redeliver(id, "default", 1) == "pending"
    assert until(service, id, "delivered").tries_made == 11
    assert receiver.received[-1].id == f"{id}-1"


def test_a_receiver_that_is_down_gets_the_event_when_it_is_back(make_service: Make) -> None:
    port = free_port()
    pauses = ",".join(["0.3"] * 30)
    service = make_service(**{**OPTIONS, "WEBHOOK_PAUSES": pauses}, **NO_FLOWS)
    id = ended(driver_of(service), f"http://127.0.0.1:{port}/hook")
    while not (found := delivery(service, id)).tries:
        time.sleep(0.02)
    assert found.tries[0].code is None
    assert "Cannot connect" in str(found.tries[0].error)
    with Receiver(port) as receiver:
        assert until(service, id, "delivered").id == receiver.received[0].id


def test_410_ends_the_delivery_and_stops_those_that_follow(
    make_service: Make, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Answer(410)
    service = make_service(**OPTIONS)
    events = ["execution.started", "execution.completed"]
    id = service.start(
        "behaves",
        {"do": "listen", "seconds": 0.7},
        callback_url=receiver.url,
        callback_events=events,
    )
    service.ended(id)
    service.run("behaves", {"do": "echo"})
    time.sleep(0.5)
    assert [received.body["type"] for received in receiver.received] == ["execution.started"]
    assert until(service, id, "failed").tries_made == 1


def test_a_receiver_says_when_to_try_again(make_service: Make, receiver: Receiver) -> None:
    busy = Answer(429, headers={"Retry-After": "2"})
    receiver.answer = lambda _: busy if len(receiver.received) == 1 else Answer(200)
    service = make_service(**OPTIONS, **NO_FLOWS)
    id = ended(driver_of(service), receiver.url)
    first, second = receiver.until(2)
    assert second.at - first.at >= 1.9
    assert until(service, id, "delivered").tries_made == 2


@pytest.mark.parametrize("size", [200_000, 300_000])
def test_large_outputs_are_left_out(make_service: Make, receiver: Receiver, size: int) -> None:
    service = make_service(**OPTIONS, **NO_FLOWS)
    id = ended(driver_of(service), receiver.url, json.dumps({"output": "x" * size}))
    [received] = receiver.until(1)
    data = received.body["data"]
    assert data["execution_id"] == id
    assert data.get("outputs_omitted") == (True if size > 256 * 1024 else None)
    assert ("outputs" in data) == (size < 256 * 1024)


def test_the_status_of_an_execution_that_has_left_the_store_is_not_sent(
    make_service: Make, receiver: Receiver
) -> None:
    service = make_service(workers=0, **OPTIONS)
    driver = driver_of(service)
    gone, there = (ended(driver, receiver.url) for _ in range(2))
    driver.client.delete(f"rq:job:{gone}")
    service.env |= {name: str(value) for name, value in NO_FLOWS.items()}
    service.start_worker()
    until(service, there, "delivered")
    assert receiver.ids() == [f"{there}-1"]


def test_a_dead_receiver_holds_up_neither_other_receivers_nor_runs(make_service: Make) -> None:
    """It takes connections and never answers, and is owed more than a worker sends at once."""
    with Receiver() as dead, Receiver() as lively:
        dead.answer = lambda _: Answer(delay_seconds=600)
        service = make_service(**OPTIONS, WORKER_PROCESSES=0, WEBHOOK_CONCURRENCY=40)
        driver = driver_of(service)
        for _ in range(100):
            ended(driver, dead.url)
        dead.until(10)
        began = time.monotonic()
        ids = [ended(driver, lively.url.replace("127.0.0.1", "localhost")) for _ in range(100)]
        service.run("behaves", {"do": "echo"}, config={"flow_id": "thread"})
        lively.until(100, seconds=60)
        # A single try to the dead one takes 15 s.
        assert time.monotonic() - began < 10
        assert sorted(lively.ids()) == sorted(f"{id}-1" for id in ids)
        assert dead.most_at_once <= 10
        assert "loop_held" not in service.output("worker0")


def test_a_receiver_that_answers_slowly_holds_up_no_other(make_service: Make) -> None:
    """It answers each in time, and is owed so many that it has work for half a minute."""
    with Receiver() as slow, Receiver() as quick:
        slow.answer = lambda _: Answer(delay_seconds=0.9)
        service = make_service(workers=0, **OPTIONS, **NO_FLOWS, WEBHOOK_CONCURRENCY=40)
        driver = driver_of(service)
        for _ in range(300):
            ended(driver, slow.url)
        service.start_worker()
        slow.until(20)
        id = ended(driver, quick.url.replace("127.0.0.1", "localhost"))
        until(service, id, "delivered")
        assert slow.count < 150, "It came after those of the other one."
        slow.until(300, seconds=180)
        assert slow.most_at_once <= 10
        assert sorted(set(slow.ids())) == sorted(slow.ids())


def test_many_are_sent_at_once(make_service: Make, receiver: Receiver) -> None:
    receiver.answer = lambda _: Answer(delay_seconds=1)
    service = make_service(workers=0, **OPTIONS, **NO_FLOWS, WEBHOOK_CONCURRENCY=800)
    driver = driver_of(service)
    for _ in range(300):
        ended(driver, receiver.url)
    service.start_worker()
    receiver.until(1)
    began = time.monotonic()
    receiver.until(300)
    while receiver.at_once:
        time.sleep(0.01)
    assert receiver.most_at_once > 100
    assert time.monotonic() - began < 30  # one after the other they take 300 s


def test_a_stopping_worker_gives_back_what_has_no_answer(
    make_service: Make, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Answer(delay_seconds=10)
    service = make_service(**OPTIONS, **NO_FLOWS)
    id = ended(driver_of(service), receiver.url)
    receiver.until(1)
    began = time.monotonic()
    service.workers[0].send_signal(signal.SIGTERM)
    assert service.workers[0].wait(10) == 0
    assert time.monotonic() - began < 8
    found = delivery(service, id)
    assert (found.status, found.tries_made) == ("pending", 0)
    receiver.answer = lambda _: Answer()
    service.start_worker()
    assert until(service, id, "delivered").tries_made == 1
    assert receiver.ids() == [f"{id}-1"] * 2
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        assert b"webhooks" not in b"".join(client.zrange("exec:workers", 0, -1)[:-1])


def test_a_worker_that_only_sends_webhooks_is_seen_by_rq_and_by_its_health_check(
    make_service: Make,
) -> None:
    service = make_service(**OPTIONS, **NO_FLOWS)
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        deadline = time.monotonic() + 30
        while not (found := client.zrange("exec:workers", 0, -1)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        [name] = found
        assert name.startswith(b"webhooks:")
        assert client.smembers("rq:workers:webhooks") == {b"rq:worker:" + name[9:]}
    checked = service.python("-m", "app.check", "worker")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_without_a_secret_a_worker_needs_flows(make_service: Make) -> None:
    service = make_service(workers=0, **NO_FLOWS)
    worker = service.start_worker()
    assert worker.wait(60) == 1
    assert "would run nothing" in service.output("worker0")
