"""Clients that get no answer to a start, and repeat it with the same `Idempotency-Key`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import psutil
import requests

from app.store.scripts import library
from tests.support.proxy import Proxy
from tests.support.service import Service

Make = Callable[..., Service]

BODY = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo"}}


def start_until_answered(service: Service, key: str) -> requests.Response:
    """What a careful client does: the same again, until there is an answer."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            response = requests.post(
                f"{service.url}/api/v1/executions",
                json=BODY,
                headers={"Idempotency-Key": key},
                timeout=5,
            )
        except requests.RequestException:
            time.sleep(0.02)
            continue
        if response.status_code == 202:
            return response
        assert response.status_code == 503
    raise AssertionError("no answer")


def test_two_hundred_starts_with_one_key_are_one_execution_while_web_processes_are_killed(
    make_service: Make,
) -> None:
    """An answer may be lost with its process, so it may be that nobody is told he was the
    first.
    """
    service = make_service(workers=0, WEB_CONCURRENCY=3)
    assert service.web is not None
    master, over = psutil.Process(service.web.pid), threading.Event()
    answers: list[requests.Response] = []
    killed: list[int] = []

    def kill() -> None:
        while not over.wait(0.4):
            with contextlib.suppress(psutil.NoSuchProcess, ValueError, requests.RequestException):
                requests.get(
                    f"{service.url}/healthz", timeout=5
                )  # on a slow machine they need their time to come back
                process = min(
                    master.children(), key=lambda child: child.create_time()
                )  # one that serves
                process.kill()
                killed.append(process.pid)

    def start() -> None:
        for _ in range(10):
            answers.append(start_until_answered(service, "one"))
            time.sleep(0.2)

    threads = [threading.Thread(target=start) for _ in range(20)]
    killer = threading.Thread(target=kill)
    killer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    killer.join()
    assert len(killed) > 2
    assert len(answers) == 200
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) <= 1
    assert service.get("/executions").json()["pagination"]["total_items"] == 1


def test_a_start_whose_answer_the_store_never_gave_is_found_again(
    broken: Make, proxy: Proxy
) -> None:
    """The repeat is lost as well, so the client is told 503 although the start was
    stored.
    """
    service = broken(workers=0)
    service.start("behaves", {"do": "echo"})
    proxy.drop_after = library().function("submit").encode()
    proxy.mode = "drop_answer"
    lost = threading.Thread(target=lambda: _cut_after_a_drop(proxy))
    lost.start()
    refused = requests.post(
        f"{service.url}/api/v1/executions",
        json=BODY,
        headers={"Idempotency-Key": "lost"},
        timeout=5,
    )
    lost.join()
    assert refused.status_code == 503
    assert proxy.dropped == 1
    again = start_until_answered(service, "lost")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert service.get("/executions").json()["pagination"]["total_items"] == 2


def _cut_after_a_drop(proxy: Proxy) -> None:
    while not proxy.dropped:
        time.sleep(0.0005)
    proxy.mode = "cut"
    time.sleep(1)
    proxy.mode = "pass"


def test_a_lost_answer_that_the_client_in_between_makes_up_for_is_no_replay(
    broken: Make, proxy: Proxy
) -> None:
    service = broken(workers=0)
    service.start("behaves", {"do": "echo"})
    proxy.drop_after = library().function("submit").encode()
    proxy.mode = "drop_answer"
    first = start_until_answered(service, "kept")
    assert proxy.dropped == 1
    assert "Idempotency-Replayed" not in first.headers
    assert start_until_answered(service, "kept").content == first.content
