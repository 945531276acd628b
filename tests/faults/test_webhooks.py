"""Processes and the store die around webhooks: none is lost, and a repeat has the same id."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from app.domain.execution import Callback
from tests.store.driver import Driver
from tests.support.proxy import Proxy
from tests.support.receiver import SECRET, Answer, Received, Receiver
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]

OPTIONS: dict[str, Any] = {
    "WEBHOOK_SECRET": SECRET,
    "WEBHOOK_ALLOW_PRIVATE": 1,
    "WEBHOOK_PAUSES": ",".join(["0.2"] * 30),
    "LEASE": 2,
    "WORKER_PROCESSES": 0,
    "WORKER_THREADS": 20,
}
NO_FLOWS = {"WORKER_THREADS": 0}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def ended(driver: Driver, url: str) -> str:
    id = driver.submit(callback=Callback(url))
    [(_, token)] = driver.claim()
    driver.finish(id, token)
    return id


def end_leases(client: redis.Redis) -> None:
    """Ends the leases of all tries, which take half a minute."""
    for id in client.zrange("exec:deliveries-due", 0, -1):
        client.zadd("exec:deliveries-due", {id: 1}, xx=True)


def until(found: Callable[[], bool], service: Service, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, service.output("worker0")[-3000:]
        time.sleep(0.02)


@pytest.mark.parametrize("finished", [1, 10, 30])
def test_kill_9_of_worker_and_web_right_after_the_end_loses_no_webhook(
    make_service: Make, own_store: EmbeddedStore, receiver: Receiver, finished: int
) -> None:
    service = make_service(own_store.url, **OPTIONS)
    with redis.Redis.from_url(own_store.url) as client:
        ids = [
            service.start(
                "behaves",
                {"do": "echo"},
                config={"flow_id": "thread"},
                callback_url=receiver.url,
                callback_events=["execution.started", "execution.completed"],
            )
            for _ in range(30)
        ]
        until(lambda: int(client.zcard("rq:finished:threads")) >= finished, service)
        assert service.web is not None
        for process in (*service.workers, service.web):
            process.kill()
            process.wait()
        service.http.close()
        service.start_web()
        service.start_worker()
        until(lambda: int(client.zcard("rq:finished:threads")) == len(ids), service)
        end_leases(client)
        until(lambda: client.zcard("exec:undelivered") == 0, service)
        for id in ids:
            of_type = [received.body["type"] for received in receiver.of(id)]
            assert {"execution.started", "execution.completed"} == set(of_type)
            for received in receiver.of(id):
                assert received.id.startswith(f"{id}-")
        statuses = {id: service.status(id)["status"] for id in ids}
        assert set(statuses.values()) == {"completed"}


def test_a_worker_that_dies_between_the_answer_and_its_note_sends_again_with_the_same_id(
    make_service: Make, own_store: EmbeddedStore, receiver: Receiver
) -> None:
    with Proxy(own_store.url.removeprefix("unix://")) as proxy:
        service = make_service(own_store.url, workers=0, **{**OPTIONS, **NO_FLOWS})
        direct, service.env["REDIS_URL"] = service.env["REDIS_URL"], proxy.url

        def answer(_: Received) -> Answer:
            if len(receiver.received) == 1:
                proxy.mode = "blackhole"  # the answer arrives, but nothing can be noted any more
            return Answer(200, b"thanks")

        receiver.answer = answer
        with redis.Redis.from_url(own_store.url) as client:
            id = ended(Driver(client), receiver.url)
            service.start_worker()
            receiver.until(1)
            time.sleep(0.5)
            service.workers[0].kill()
            service.workers[0].wait()
            service.env["REDIS_URL"] = direct
            assert client.hget(f"rq:job:{id}-1", "status") == b"started"
            service.start_worker()
            end_leases(client)
            receiver.until(2)
            until(lambda: client.hget(f"rq:job:{id}-1", "status") == b"finished", service)
        assert receiver.ids() == [f"{id}-1"] * 2
        page = Driver(redis.Redis.from_url(own_store.url)).store.deliveries.read(id, "default")
        assert page is not None
        assert [tried.code for tried in page.deliveries[0].tries] == [None, 200]


def test_an_outage_of_the_store_costs_no_webhook_and_no_worker(
    make_service: Make, own_store: EmbeddedStore, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Answer(delay_seconds=1)
    service = make_service(own_store.url, **{**OPTIONS, **NO_FLOWS})
    with redis.Redis.from_url(own_store.url) as client:
        driver = Driver(client)
        ids = [ended(driver, receiver.url) for _ in range(50)]
        receiver.until(10)
    own_store.kill()
    time.sleep(2)
    own_store.start()
    with redis.Redis.from_url(own_store.url) as client:
        end_leases(client)
        until(lambda: client.zcard("exec:undelivered") == 0, service)
    assert set(receiver.ids()) == {f"{id}-1" for id in ids}
    assert service.workers[0].poll() is None
