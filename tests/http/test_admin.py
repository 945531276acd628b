"""`python -m app.admin`, as an operator calls it beside a running service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.service import Service

WORDS = {"do": "echo", "text": "hello"}


def admin(service: Service, *arguments: str, code: int = 0) -> Any:
    done = service.python("-m", "app.admin", *arguments, "--json")
    assert done.returncode == code, done.stderr + done.stdout
    return done.stderr if code else json.loads(done.stdout)


@pytest.fixture
def busy(make_service: Callable[..., Service]) -> Service:
    return make_service(workers=1, AUTH="off", WORKER_PROCESSES=1, WORKER_THREADS=0)


def test_an_operator_follows_cancels_and_retries_an_execution(busy: Service) -> None:
    running = busy.start("behaves", {"do": "listen", "seconds": 600, "password": "hunter2"})
    waiting = busy.start("behaves", {**WORDS, "text": "long " * 2000})
    busy.until(running, "running")

    status = admin(busy, "status")
    assert {row["queue"]: row["waiting"] for row in status["queues"]}["processes"] == 1
    [worker] = status["workers"]
    assert worker["slots"].endswith("/1")  # those in use are as of the last heartbeat
    assert worker["queue"] == "processes"
    assert worker["version"].startswith("1.0.0-")
    assert worker["silent_seconds"] < 12
    [lease] = status["leases"]
    assert (lease["execution_id"], lease["worker"]) == (running, worker["name"])

    found = admin(busy, "execution", running)
    assert found["record"]["status"] == "started"
    assert found["request"]["inputs"]["do"] == "listen"
    assert "hunter2" not in json.dumps(found)
    assert found["places"]["leases"] > 0
    found = admin(busy, "execution", waiting)
    assert found["places"]["queue"] == 0
    assert found["request"]["inputs"]["text"].endswith("[cut]")

    rows = admin(busy, "list", "--status", "running")["executions"]
    assert [row["execution_id"] for row in rows] == [running]
    assert admin(busy, "list", "--limit", "1")["total"] == 2
    assert admin(busy, "list", "--tenant", "other")["executions"] == []

    assert admin(busy, "cancel", running)["status"] == "cancelled"
    assert busy.status(running)["status"] == "cancelled"
    busy.ended(waiting)
    assert "completed" in admin(busy, "cancel", waiting, code=1)
    again = admin(busy, "retry", running)
    assert busy.status(again["execution_id"])["retry_of"] == running
    assert admin(busy, "cancel", again["execution_id"])["status"] in ("cancelled", "running")


def test_text_for_people_names_the_same_facts(busy: Service) -> None:
    id = busy.start("behaves", {**WORDS, "text": "\x1b[2Jhello"})
    busy.ended(id)
    for arguments, words in (
        (["status"], ["processes", "workers: 1"]),
        (["execution", id], ["record:", "outputs:"]),
        (["list"], [id, "completed"]),
    ):
        done = busy.python("-m", "app.admin", *arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        for word in words:
            assert word in done.stdout


def test_mistakes_are_one_sentence(busy: Service) -> None:
    for command in ("execution", "cancel", "retry"):
        error = admin(busy, command, "exec_00000000000000000000", code=1)
        assert error.count("\n") == 1
        assert "exec_00000000000000000000" in error
    busy.env["REDIS_URL"] = "redis://127.0.0.1:1/0"
    assert admin(busy, "status", code=1) == "The store cannot be reached.\n"
    assert busy.python("-m", "app.admin", "list", "--limit", "0").returncode == 2
