"""`Idempotency-Key`: a repeated start is one execution."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from app.domain.identifiers import new_id
from tests.http.test_refusals import refusal
from tests.support.agents import write_agent
from tests.support.service import Service

BODY = {
    "type": "agent",
    "target_id": "behaves",
    "inputs": {"do": "echo", "n": 1},
    "config": {"timeout": 60},
}


def post(service: Service, key: str, body: Any = BODY) -> requests.Response:
    return service.post("/executions", json=body, headers={"Idempotency-Key": key})


def total(service: Service) -> int:
    return int(service.get("/executions").json()["pagination"]["total_items"])


def test_the_same_start_again_is_answered_as_the_first_time_and_starts_nothing(
    service: Service,
) -> None:
    key = new_id()
    first = post(service, key)
    before = total(service)
    again = post(service, key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert total(service) == before


def test_the_answer_is_the_first_one_even_when_the_execution_has_ended(service: Service) -> None:
    key = new_id()
    first = post(service, key)
    service.ended(first.json()["execution_id"])
    assert post(service, key).content == first.content


@pytest.mark.parametrize(
    "text",
    [
        '{"config":{"timeout":60},"inputs":{"n":1,"do":"echo"},"target_id":"behaves","type":"agent"}',
        '{"type": "\\u0061gent",\n"target_id": "behaves", "inputs": {"do": "echo", "n": 1}, "config": {"timeout": 60}}',
    ],
)
def test_the_same_body_may_be_written_otherwise(service: Service, text: str) -> None:
    key = new_id()
    first = post(service, key)
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    assert service.post("/executions", data=text, headers=headers).content == first.content


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"do": "echo", "n": 2}},
        {"inputs": {"do": "echo", "n": 1.0}},
        {"config": {"timeout": 61}},
        {"config": {}},
        {"expires_in": 60},
        {
            "type": "pipeline",
            "target_id": "customer_service_flow",
            "inputs": {"customer_query": "?"},
        },
    ],
)
def test_another_body_with_the_same_key_is_422_and_starts_nothing(
    service: Service, change: dict[str, Any]
) -> None:
    key = new_id()
    post(service, key)
    before = total(service)
    problem = refusal(post(service, key, {**BODY, **change}), 422)
    assert problem["code"] == "idempotency_key_reused"
    assert total(service) == before


def test_a_refused_start_does_not_use_its_key_up(service: Service) -> None:
    key = new_id()
    refusal(post(service, key, {**BODY, "target_id": "nobody"}), 404)
    refusal(post(service, key, {**BODY, "type": "robot"}), 400)
    assert "Idempotency-Replayed" not in post(service, key).headers


@pytest.mark.parametrize(
    "key", ["", "x" * 256, "a b", "a\tb", "\u00e9".encode(), "caf\u00e9".encode("latin-1")]
)
def test_a_key_that_is_none_is_400(service: Service, key: Any) -> None:
    before = total(service)
    errors = refusal(post(service, key), 400)["errors"]
    assert [error["field"] for error in errors] == ["Idempotency-Key"]
    assert total(service) == before


@pytest.mark.parametrize(
    "key", ["x", "~" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "a,b;c=d:*"]
)
def test_any_visible_ascii_is_a_key(service: Service, key: str) -> None:
    first = post(service, key)
    assert first.status_code == 202
    assert post(service, key).content == first.content


@pytest.mark.parametrize("values", [("a", "a"), ("a", "b"), ("a", ""), ("   ",)])
def test_a_key_that_comes_twice_or_is_blank_is_400(
    service: Service, values: tuple[str, ...]
) -> None:
    body = b'{"type": "agent", "target_id": "behaves", "inputs": {}}'
    lines = [
        "POST /api/v1/executions HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"Idempotency-Key: {value}" for value in values),
    ]
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"field": "Idempotency-Key"' in answer


def test_parallel_starts_with_one_key_are_one_execution(service: Service) -> None:
    key, barrier = new_id(), threading.Barrier(50)
    answers: list[requests.Response] = []

    def start() -> None:
        barrier.wait()
        answers.append(
            requests.post(
                f"{service.url}/api/v1/executions", json=BODY, headers={"Idempotency-Key": key}
            )
        )

    threads = [threading.Thread(target=start) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """The folder of an agent, `short_lived`, that a test may remove."""
    definition = "flows: [{name: default, entrypoint: 'flow.py:run'}]"
    return write_agent(tmp_path / "agents", "short_lived", definition, "def run(inputs): return 1")


def test_a_repeated_start_is_answered_as_the_first_time_when_its_target_was_removed_meanwhile(
    make_service, agent: Path
) -> None:
    body = {"type": "agent", "target_id": "short_lived", "inputs": {}}
    service = make_service(workers=0, agents=agent.parent)
    first = post(service, "key", body)
    assert first.status_code == 202
    shutil.rmtree(agent)
    changed = make_service(service.env["REDIS_URL"], workers=0)
    assert post(changed, "key", body).content == first.content
    refusal(post(changed, "key", {**body, "inputs": {"n": 1}}), 404)
    refusal(post(changed, "new", body), 404)


def test_a_repeated_retry_is_answered_as_the_first_time_when_its_target_was_removed_meanwhile(
    make_service, agent: Path
) -> None:
    service = make_service(workers=0, agents=agent.parent)
    cancelled = service.start("short_lived")
    service.cancel(cancelled)
    url, key = f"/executions/{cancelled}/retry", {"Idempotency-Key": "again"}
    first = service.post(url, headers=key)
    assert (first.status_code, first.json()["retry_of"]) == (202, cancelled)
    shutil.rmtree(agent)
    changed = make_service(service.env["REDIS_URL"], workers=0)
    assert changed.post(url, headers=key).content == first.content
    refusal(changed.post(url), 404)


def test_a_repeated_retry_is_answered_as_the_first_time_when_what_it_repeats_has_left(
    make_service,
) -> None:
    service = make_service(workers=0, RETENTION=1, LEASE=1)
    cancelled = service.start("behaves", {"do": "echo"})
    service.cancel(cancelled)
    url, key = f"/executions/{cancelled}/retry", {"Idempotency-Key": "again"}
    first = service.post(url, headers=key)
    assert first.status_code == 202
    deadline = time.monotonic() + 30
    while service.get(f"/executions/{cancelled}").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert service.post(url, headers=key).content == first.content
    refusal(service.post(url), 404)


def test_a_key_outlives_its_execution(make_service) -> None:
    service = make_service(RETENTION=1, LEASE=1)
    first = post(service, "once")
    deadline = time.monotonic() + 30
    while service.get(f"/executions/{first.json()['execution_id']}").status_code != 404:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = post(service, "once")
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")


def test_a_key_is_forgotten_after_its_time(make_service) -> None:
    service = make_service(workers=0, IDEMPOTENCY_TTL=1)
    first = post(service, "once")
    time.sleep(1.1)
    again = post(service, "once")
    assert "Idempotency-Replayed" not in again.headers
    assert again.json()["execution_id"] != first.json()["execution_id"]
