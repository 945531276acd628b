"""`/readyz`: 200 if an execution that starts now would be stored and run; otherwise it names the
reason.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
import redis
import requests

from app.settings import Settings
from app.store.readiness import Readiness
from app.store.scripts import library
from app.store.store_check import Check
from tests.store.driver import Driver
from tests.support.pace import within
from tests.support.proxy import Proxy
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

BOTH = {"threads", "processes"}


def readyz(service: Service) -> requests.Response:
    return requests.get(f"{service.url}/readyz", timeout=10)


def until(service: Service, status: int, seconds: float = 60) -> requests.Response:
    deadline = time.monotonic() + seconds
    while (answer := readyz(service)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    return answer


def failed(answer: requests.Response) -> dict[str, dict[str, str]]:
    return {
        check["name"]: check for check in answer.json()["checks"] if check["status"] == "failed"
    }


@pytest.fixture
def client(own_store: EmbeddedStore) -> redis.Redis:
    return redis.Redis.from_url(own_store.url)


def look(client: redis.Redis, **commands: str) -> dict[str, Check]:
    return {check.name: check for check in Readiness(client, Settings()).run_checks(BOTH)}


def test_it_is_ready_when_both_workers_live_and_no_longer_when_they_left(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(own_store.url)
    answer = until(service, 200)
    assert {check["name"] for check in answer.json()["checks"]} == {
        *(
            "store",
            "scripts",
            "version",
            "role",
            "write",
            "eviction",
            "disk",
            "format",
            "workers_processes",
            "workers_threads",
        )
    }
    service.workers[0].terminate()
    service.workers[0].wait(60)
    answer = readyz(service)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"]
    assert set(failed(answer)) == {"workers_processes", "workers_threads"}
    assert "WORKER_PROCESSES" in failed(answer)["workers_processes"]["setting"]
    assert requests.get(f"{service.url}/healthz", timeout=30).status_code == 200


def test_a_killed_worker_counts_for_one_lease(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(own_store.url, LEASE=2)
    until(service, 200)
    service.workers[0].kill()
    deadline = time.monotonic() + within(6)
    while set(failed(readyz(service))) != {"workers_processes", "workers_threads"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_missing_kind_of_worker_is_named(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(own_store.url, WORKER_THREADS=0)
    deadline = time.monotonic() + 60
    while set(failed(readyz(service))) != {"workers_threads"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("fault", ["frozen", "gone"])
def test_a_store_that_does_not_answer_is_red_within_two_seconds(
    make_service: Callable[..., Service], own_store: EmbeddedStore, fault: str
) -> None:
    service = make_service(own_store.url)
    until(service, 200)
    own_store.send_signal(signal.SIGSTOP) if fault == "frozen" else own_store.kill()
    try:
        for _ in range(3):
            began = time.monotonic()
            answer = readyz(service)
            assert time.monotonic() - began < within(2)
            assert (answer.status_code, set(failed(answer))) == (503, {"store"})
    finally:
        own_store.send_signal(signal.SIGCONT) if fault == "frozen" else own_store.start()
    until(service, 200)


def test_a_store_whose_every_answer_is_late_is_not_waited_for(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    with Proxy(own_store.url.removeprefix("unix://")) as proxy:
        service = make_service(proxy.url, workers=0)
        proxy.delay_seconds = (
            0.35  # each way, for each of the half dozen exchanges of a new connection
        )
        proxy.mode = "delay"
        began = time.monotonic()
        answer = readyz(service)
        assert 1.7 < time.monotonic() - began < within(2)
        assert "does not answer in time" in failed(answer)["store"]["detail"]
        assert readyz(service).elapsed.total_seconds() < within(
            0.5
        )  # whoever comes next does not wait as long again
        proxy.mode = "pass"
        deadline = time.monotonic() + 60
        while "store" in failed(readyz(service)):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_store_that_may_evict_or_keeps_nothing_is_red_and_names_the_setting(
    client: redis.Redis,
) -> None:
    assert look(client)["eviction"].status == look(client)["disk"].status == "ok"
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("appendonly", "no")
    found = look(client)
    assert (found["eviction"].status, found["eviction"].setting) == (
        "failed",
        "maxmemory-policy noeviction",
    )
    assert (found["disk"].status, found["disk"].setting) == ("failed", "appendonly yes")
    client.config_set("save", "3600 1")
    assert look(client)["disk"].status == "ok"


def test_what_a_managed_store_does_not_tell_is_unknown_and_no_failure(
    client: redis.Redis, own_store: EmbeddedStore
) -> None:
    client.config_set("appendonly", "no")
    url = own_store.url.replace("unix://", "unix://managed:x@")
    client.acl_setuser(
        "managed", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-config"]
    )
    with redis.Redis.from_url(url) as managed:
        found = look(managed)
        assert (found["eviction"].status, found["disk"].status) == ("ok", "unknown")
        client.acl_setuser("managed", commands=["-info"])
        found = look(managed)
        assert {found[name].status for name in ("version", "role", "eviction")} == {"unknown"}


def test_functions_are_loaded_by_the_look_and_their_refusal_is_named(
    client: redis.Redis, own_store: EmbeddedStore
) -> None:
    client.function_flush()
    assert look(client)["scripts"].status == "ok"
    assert client.function_list(library=library().name)
    client.function_flush()
    client.acl_setuser(
        "managed", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-function"]
    )
    with redis.Redis.from_url(own_store.url.replace("unix://", "unix://managed:x@")) as managed:
        found = look(managed)["scripts"]
    assert found.status == "failed"
    assert "ACL" in found.setting


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("maxmemory", 1, "The store is full."),
        ("min-replicas-to-write", 1, "Too few replicas follow the store."),
    ],
)
def test_a_store_that_would_refuse_a_start_is_not_ready(
    client: redis.Redis, name: str, value: int, sentence: str
) -> None:
    assert look(client)["write"].status == "ok"
    client.config_set(name, value)
    try:
        found = look(client)["write"]
    finally:
        client.config_set(name, 0)
    assert (found.status, found.detail) == ("failed", sentence)


def test_a_worker_is_noted_while_the_store_is_full_and_dropped_when_silent(
    client: redis.Redis,
) -> None:
    driver = Driver(client)
    assert (
        look(client)["scripts"].status == "ok"
    )  # a store that is full already can be given no functions
    client.config_set("maxmemory", 1)
    driver.note_worker("threads", "w1", "3/100")
    found = look(client)
    assert (found["workers_threads"].status, found["workers_processes"].status) == ("ok", "failed")
    client.config_set("maxmemory", 0)
    client.zadd("exec:workers", {"threads:w1": 1})
    assert look(client)["workers_threads"].status == "failed"
    driver.store.reap()
    assert not client.exists("exec:workers", "exec:slots")


def test_a_replica_is_red_as_it_would_keep_nothing(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", 1)
    found = look(client)
    assert (found["role"].status, found["role"].setting) == ("failed", "REDIS_URL, to its primary")
