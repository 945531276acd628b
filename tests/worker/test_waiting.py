"""A pending execution says what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.domain.execution import WaitingFor
from app.store.execution_reader import REASON_SECONDS
from app.store.waiting import waiting_for
from tests.support.service import Service

Make = Callable[..., Service]


def waits(service: Service, id: str) -> dict[str, Any]:
    body = service.status(id)
    assert (body["status"], "started_at" in body) == ("pending", False), body
    found = body["waiting_for"]
    # The same, whatever else is asked for.
    steps = service.get(f"/executions/{id}", params={"include": "steps"}).json()
    assert steps["waiting_for"] == found
    return dict(found)


def calls_of(client: redis.Redis) -> int:
    """How often somebody has looked for a place in a queue, which only this needs."""
    return int(client.info("commandstats").get("cmdstat_lpos", {}).get("calls", 0))


@pytest.mark.timeout(120)
def test_it_waits_for_a_worker_then_for_a_slot_and_says_so(make_service: Make) -> None:
    service = make_service(workers=0, WORKER_THREADS=1, WORKER_PROCESSES=1)
    first = service.start("behaves", {"do": "listen", "seconds": 60})
    assert waits(service, first) == {
        "reason": "worker",
        "detail": "No worker is alive that takes from the queue 'processes'.",
    }
    service.start_worker()
    service.until(first, "running")
    assert "waiting_for" not in service.status(first)
    second, third = (service.start("behaves", {"do": "echo"}) for _ in range(2))
    slot = "It waits for a free process slot: 1 of 1 are in use"
    assert waits(service, second) == {"reason": "slot", "before": 0, "detail": f"{slot}."}
    assert waits(service, third) == {
        "reason": "slot",
        "before": 1,
        "detail": f"{slot}, and 1 is before it in the queue.",
    }
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        before = calls_of(client)
        service.status(first)  # it runs: nobody looks for a reason
        assert calls_of(client) == before
        time.sleep(REASON_SECONDS)
        for _ in range(20):
            service.status(third)
        assert before < calls_of(client) < before + 20  # who polls quickly gets a recent reason
    service.cancel(first)
    for id in (second, third):
        assert "waiting_for" not in service.ended(id)


@pytest.mark.timeout(120)
def test_it_waits_for_its_next_attempt(make_service: Make) -> None:
    service = make_service()
    retries = {"max": 1, "backoff_seconds": [600]}
    id = service.start("behaves", {"do": "fail"}, config={"retries": retries})
    deadline = time.monotonic() + 60
    while service.status(id).get("phase") != "retry_wait":
        assert time.monotonic() < deadline, service.status(id)
        time.sleep(0.05)
    found = waits(service, id)
    assert found["reason"] == "backoff"
    assert found["until"] > service.status(id)["created_at"]
    assert found["until"][:19] in found["detail"]

    # Its time comes, and no worker is there to take it.
    service.end_workers()
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        while client.zcard("exec:workers"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        client.zadd("exec:delayed", {id: time.time() * 1_000_000 - 1})
        time.sleep(REASON_SECONDS)
        assert waits(service, id)["reason"] == "worker"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([b"threads", b"", 0, 1, 3, 1], ("turn", "A worker will take it in a moment.", 0)),
        (
            [b"threads", b"", 2, 1, 3, 1],
            (
                "turn",
                "A worker will take it in a moment, and 2 are before it in the queue.",
                2,
            ),
        ),
        (
            [b"threads", b"", -1, 9, 3, 1],
            ("slot", "It waits for a free thread slot: 3 of 3 are in use.", None),
        ),
        (
            [b"processes", b"", 0, 0, 0, 2],
            ("worker", "No worker of the queue 'processes' can start a process now.", None),
        ),
    ],
)
def test_the_first_reason_that_applies_is_named(
    found: list[Any], expected: tuple[str, str, int | None]
) -> None:
    reason, detail, before = expected
    assert waiting_for(found) == WaitingFor(reason, detail, before=before)
