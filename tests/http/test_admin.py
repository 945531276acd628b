"""`python -m app.admin`, as an operator calls it beside a running service."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import redis

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
    assert (found["now"]["status"], found["now"]["phase"]) == ("running", "running")
    assert "last_heartbeat_at" in found["now"]
    found = admin(busy, "execution", waiting)
    assert found["places"]["queue"] == 0
    assert found["now"]["waiting_for"].startswith("It waits for a free process slot")
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
    said = "The store cannot be reached. REDIS_URL names redis://127.0.0.1:1/0.\n"
    for command in (["status"], ["list"], ["cancel", "exec_00000000000000000000"]):
        assert admin(busy, *command, code=1) == said
    assert busy.python("-m", "app.admin", "list", "--limit", "0").returncode == 2


def test_a_list_names_the_error_of_an_execution(busy: Service) -> None:
    failed = busy.start("behaves", {"do": "fail"})
    error = busy.ended(failed)["error"]["type"]
    [row] = admin(busy, "list", "--status", "failed")["executions"]
    assert (row["execution_id"], row["error"]) == (failed, error)
    assert error != "RecordUnreadable"


def test_keys_that_others_have_written_are_named_and_the_rest_is_shown(busy: Service) -> None:
    id = busy.start("behaves", WORDS)
    busy.ended(id)
    broken = "exec_0000000000000000000{}"
    with redis.Redis.from_url(busy.env["REDIS_URL"]) as client:
        client.set("exec:index:other:failed:agent", "a text")
        client.set(f"rq:job:{broken.format(1)}", "a text")
        client.hset(f"rq:job:{id}", "origin", b"\xff")
        client.set(f"rq:job:{broken.format(2)}:data", '["\\ud800", 1]')
        deep = '{"a":' * 900 + "1" + "}" * 900
        client.set(f"rq:job:{broken.format(3)}:data", deep)

    found = admin(busy, "list")
    assert [row["execution_id"] for row in found["executions"]] == [id]
    assert [row["tenant"] for row in found["unreadable_tenants"]] == ["other"]
    assert "WRONGTYPE" in admin(busy, "list", "--tenant", "other", code=1)
    found = admin(busy, "execution", broken.format(1))
    assert found == {"keys_of_wrong_type": [{"key": f"rq:job:{broken.format(1)}"}]}
    assert admin(busy, "execution", id)["record"]["status"] == "finished"
    for number in (1, 2, 3):
        done = busy.python("-m", "app.admin", "execution", broken.format(number))
        assert (done.returncode, done.stderr) == (0, "")
    assert "[cut]" in done.stdout


def test_a_long_value_is_told_by_its_length_and_not_read(busy: Service) -> None:
    id = "exec_00000000000000000000"
    with redis.Redis.from_url(busy.env["REDIS_URL"]) as client:
        client.hset(f"rq:job:{id}:values", mapping={"long": b"y" * 20_000_000, "short": '"z"'})
        client.set(f"rq:job:{id}:data", zlib.compress(b"1" * 20_000_000))
        client.config_resetstat()
        found = admin(busy, "execution", id)
        assert client.info("stats")["total_net_output_bytes"] < 1_000_000
    assert found["values"] == {"long": "(20000000 bytes)", "short": "z"}
    assert found["request"].endswith("bytes, packed)")
