"""Limits on requests and executions, under parallel load: no more than allowed is ever accepted,
and headers tell the caller the limits.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import redis
import requests

from tests.faults.conftest import LEASE_SECONDS
from tests.http.test_refusals import refusal
from tests.support.pace import within
from tests.support.proxy import Proxy
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]

BODY = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo"}}


def in_parallel(count: int, call: Callable[[], requests.Response]) -> list[requests.Response]:
    answers: list[requests.Response] = []
    barrier = threading.Barrier(count)

    def one() -> None:
        barrier.wait()
        answers.append(call())

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def post(service: Service, **headers: str) -> requests.Response:
    return requests.post(f"{service.url}/api/v1/executions", json=BODY, headers=headers, timeout=30)


def get(service: Service) -> requests.Response:
    return requests.get(f"{service.url}/api/v1/executions", timeout=30)


def codes(answers: list[requests.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def total(service: Service) -> int:
    return int(service.get("/executions").json()["pagination"]["total_items"])


def test_nothing_is_limited_and_no_header_is_sent_unless_that_is_set(service: Service) -> None:
    answer = service.post("/executions", json=BODY)
    assert answer.status_code == 202
    assert not {"RateLimit", "RateLimit-Policy", "Retry-After"} & set(answer.headers)


def test_exactly_as_many_unfinished_executions_are_accepted_as_a_tenant_may_have(
    make_service: Make,
) -> None:
    service = make_service(workers=0, WEB_CONCURRENCY=2, MAX_UNFINISHED_PER_TENANT=25)
    answers = in_parallel(60, lambda: post(service))
    assert codes(answers) == {202: 25, 429: 35}
    assert total(service) == 25
    for answer in answers:
        assert answer.headers["RateLimit-Policy"] == '"unfinished";q=25;qu="concurrent-requests"'
        if answer.status_code == 429:
            assert refusal(answer, 429)["code"] == "too_many_unfinished"
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.headers["RateLimit"] == '"unfinished";r=0'
    accepted = sorted(
        answer.headers["RateLimit"] for answer in answers if answer.status_code == 202
    )
    assert accepted == sorted(f'"unfinished";r={left}' for left in range(25))


def test_what_has_ended_makes_room(make_service: Make) -> None:
    service = make_service(MAX_UNFINISHED_PER_TENANT=1)
    id = service.start("behaves", {"do": "listen", "seconds": 30})
    service.until(id, "running")
    assert refusal(post(service), 429)
    assert service.cancel(id).status_code == 200
    assert post(service).status_code == 202


def test_starting_one_again_is_a_start_like_any_other(make_service: Make) -> None:
    service = make_service(workers=0, MAX_UNFINISHED_PER_TENANT=1, RATE_LIMIT_START="2/hour")
    id = post(service).json()["execution_id"]
    service.cancel(id)
    assert service.post(f"/executions/{id}/retry").status_code == 202
    assert refusal(service.post(f"/executions/{id}/retry"), 429)["code"] == "too_many_unfinished"
    assert refusal(service.post(f"/executions/{id}/retry"), 429)["code"] == "rate_limited"
    assert total(service) == 2


def test_exactly_as_many_wait_as_the_queue_may_hold(make_service: Make) -> None:
    service = make_service(workers=0, WEB_CONCURRENCY=2, MAX_QUEUE_LENGTH=10)
    answers = in_parallel(40, lambda: post(service))
    assert codes(answers) == {202: 10, 503: 30}
    assert total(service) == 10
    for answer in answers:
        if answer.status_code == 503:
            assert refusal(answer, 503)["code"] == "queue_full"
            assert int(answer.headers["Retry-After"]) > 0


def test_starts_are_refused_while_the_oldest_waits_for_too_long(make_service: Make) -> None:
    service = make_service(workers=0, MAX_QUEUE_AGE=0.5)
    assert post(service).status_code == 202
    time.sleep(0.6)
    assert refusal(post(service), 503)["code"] == "queue_full"
    service.start_worker()
    deadline = time.monotonic() + 60
    while post(service).status_code != 202:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_exactly_as_many_starts_are_let_through_as_are_allowed(make_service: Make) -> None:
    service = make_service(workers=0, WEB_CONCURRENCY=2, RATE_LIMIT_START="20/minute")
    answers = in_parallel(50, lambda: post(service))
    assert codes(answers) == {202: 20, 429: 30}
    assert total(service) == 20
    for answer in answers:
        assert answer.headers["RateLimit-Policy"] == '"start_execution-per-minute";q=20;w=60'
        assert re.fullmatch(
            r'"start_execution-per-minute";r=\d+;t=\d+', answer.headers["RateLimit"]
        )
        assert ("Retry-After" in answer.headers) == (answer.status_code == 429)
        if answer.status_code == 429:
            assert refusal(answer, 429)["code"] == "rate_limited"
            assert 0 < int(answer.headers["Retry-After"]) <= 60


def test_a_client_that_waits_as_told_is_let_through(make_service: Make) -> None:
    service = make_service(workers=0, RATE_LIMIT_START="2/second;100/hour")
    answers = [post(service) for _ in range(3)]
    while codes(answers)[429] == 0:
        answers.append(post(service))
    time.sleep(int(answers[-1].headers["Retry-After"]))
    answer = post(service)
    assert answer.status_code == 202
    assert answer.headers["RateLimit-Policy"].count(";q=") == 2


def test_polling_and_cancelling_go_on_for_one_who_may_start_no_more(make_service: Make) -> None:
    service = make_service(workers=0, RATE_LIMIT_START="1/hour")
    id = post(service).json()["execution_id"]
    assert post(service).status_code == 429
    for _ in range(50):
        assert service.get(f"/executions/{id}").status_code == 200
    assert service.cancel(id).status_code == 200


def test_reads_and_cancels_may_be_limited_too(make_service: Make) -> None:
    service = make_service(workers=0, RATE_LIMIT_READ="3/hour", RATE_LIMIT_CANCEL="2/hour")
    id = post(service).json()["execution_id"]
    assert [
        requests.options(f"{service.url}/api/v1/executions/{id}", timeout=30).status_code
        for _ in range(4)
    ] == [200] * 4
    assert [service.get(f"/executions/{id}").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [service.get("/executions").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [service.cancel(id).status_code for _ in range(3)] == [200, 200, 429]
    assert requests.get(f"{service.url}/healthz", timeout=30).status_code == 200


def test_a_repeated_start_is_answered_whatever_limit_is_reached(make_service: Make) -> None:
    service = make_service(
        workers=0,
        RATE_LIMIT_START="1/hour",
        MAX_UNFINISHED_PER_TENANT=1,
        MAX_QUEUE_LENGTH=1,
        MAX_QUEUE_AGE=0.001,
    )
    first = post(service, **{"Idempotency-Key": "mine"})
    assert first.status_code == 202
    for _ in range(3):
        again = post(service, **{"Idempotency-Key": "mine"})
        assert (again.status_code, again.content) == (202, first.content)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Location"] == first.headers["Location"]
        assert "Retry-After" not in again.headers
    assert post(service, **{"Idempotency-Key": "new"}).status_code == 429
    assert post(service).status_code == 429


def test_a_repeated_retry_is_answered_whatever_limit_is_reached(make_service: Make) -> None:
    service = make_service(workers=0, RATE_LIMIT_START="2/hour")
    id = post(service).json()["execution_id"]
    service.cancel(id)
    answers = [
        service.post(f"/executions/{id}/retry", headers={"Idempotency-Key": "mine"})
        for _ in range(3)
    ]
    assert [(answer.status_code, answer.content) for answer in answers] == [
        (202, answers[0].content)
    ] * 3
    assert answers[2].headers["Idempotency-Replayed"] == "true"
    assert answers[2].json()["retry_of"] == id
    assert (
        service.post(f"/executions/{id}/retry", headers={"Idempotency-Key": "new"}).status_code
        == 429
    )


def test_limited_endpoints_answer_503_within_two_seconds_while_the_store_is_away(
    make_service: Make, own_store: EmbeddedStore
) -> None:
    limits: dict[str, Any] = {"RATE_LIMIT_START": "900/hour", "RATE_LIMIT_READ": "900/hour"}
    with Proxy(own_store.url.removeprefix("unix://")) as proxy:
        service = make_service(proxy.url, workers=0, LEASE=LEASE_SECONDS, **limits)
        assert post(service).status_code == 202
        for mode in ("cut", "blackhole"):
            proxy.mode = mode  # type: ignore[assignment]
            for answer in in_parallel(20, lambda: post(service)) + in_parallel(
                20, lambda: get(service)
            ):
                assert refusal(answer, 503)["code"] == "store_unavailable"
                assert answer.elapsed.total_seconds() < within(2)
            proxy.mode = "pass"
            deadline = time.monotonic() + 60
            while post(service).status_code != 202:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_a_full_store_counts_nothing_so_that_limited_reads_and_cancels_go_on(
    make_service: Make, own_store: EmbeddedStore
) -> None:
    service = make_service(
        own_store.url,
        workers=0,
        RATE_LIMIT_START="9/hour",
        RATE_LIMIT_READ="900/hour",
        RATE_LIMIT_CANCEL="9/hour",
    )
    id = post(service).json()["execution_id"]
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("maxmemory", 1)
    assert refusal(post(service), 503)["code"] == "store_full"
    assert service.get(f"/executions/{id}").status_code == 200
    assert service.cancel(id).status_code == 200


def test_retries_with_an_empty_body_do_not_fill_the_store(make_service: Make) -> None:
    service = make_service(workers=0, MAX_RETRIED_BYTES_PER_TENANT=1_000_000)
    inputs = {"text": os.urandom(200_000).hex()}
    id = service.start("behaves", inputs)
    service.cancel(id)
    answers = in_parallel(
        20,
        lambda: requests.post(f"{service.url}/api/v1/executions/{id}/retry", json={}, timeout=30),
    )
    assert set(codes(answers)) == {202, 429}
    assert 1 <= codes(answers)[202] <= 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refusal(refused, 429)["code"] == "too_much_retried"
    assert int(refused.headers["Retry-After"]) > 0
    assert service.post("/executions", json={**BODY, "inputs": inputs}).status_code == 202
