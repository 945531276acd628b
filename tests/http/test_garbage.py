"""Another program has written anything into a record: no request is answered with 500, and all
endpoints show the same status.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
import requests

from tests.support.service import Service

GARBAGE = [b"\xff\xfe\x00", b"99999999999999999", b"-1", b"[1]", b'{"a": 1}', b"nan", b""]
FIELDS = [
    *(
        "status",
        "tenant",
        "type",
        "target",
        "created_at",
        "origin",
        "steps",
        "attempt",
        "token",
        "worker_name",
        "meta",
    ),
    *(
        "cancel",
        "lost",
        "max_attempts",
        "retried",
        "expires",
        "history",
        "enqueued_at",
        "ended_at",
        "timeout",
    ),
    *(
        "retries",
        "retry_of",
        "started_at",
        "error",
        "usage",
        "flow",
        "definition",
        "traceparent",
        "request_id",
    ),
]
STATUSES = {"pending", "running", "completed", "failed", "cancelled"}

START: dict[str, Callable[[Service], str]] = {
    "completed": lambda service: service.run("behaves", {"do": "echo"})["execution_id"],
    "failed": lambda service: service.run("behaves", {"do": "fail"})["execution_id"],
    "pipeline": lambda service: service.run("relay", {"first": {}, "second": {}}, type="pipeline")[
        "execution_id"
    ],
    "broken off": lambda service: service.run(
        "relay", {"first": {}, "second": {"fail": "No."}}, type="pipeline"
    )["execution_id"],
}


@pytest.fixture
def service(shared_service: Callable[..., Service]) -> Service:
    """What is written here into records and lists is gone before the next test, which may look at
    all there is.
    """
    return shared_service()


@pytest.fixture
def client(service: Service) -> redis.Redis:
    return redis.Redis.from_url(service.env["REDIS_URL"])


def answers(service: Service, id: str) -> dict[str, requests.Response]:
    """What everybody is told of it."""
    return {
        "status": service.get(f"/executions/{id}"),
        "with steps": service.get(f"/executions/{id}?include=steps"),
        "steps": service.get(f"/executions/{id}/steps?include=outputs"),
        "list": service.get("/executions?page_size=100"),
        "cancel": service.cancel(id),
    }


def check(found: dict[str, requests.Response]) -> str | None:
    """The status, None for 404. Raises where there is a 500, or two answers that do not agree."""
    assert {answer.status_code for answer in found.values()} <= {200, 400, 404}, {
        name: answer.text[:200] for name, answer in found.items()
    }
    bodies = {name: answer.json() for name, answer in found.items()}
    if found["status"].status_code == 404:
        assert found["cancel"].status_code == 404
        return None
    status = str(bodies["status"]["status"])
    assert status in STATUSES
    assert bodies["with steps"]["status"] == bodies["steps"]["status"] == status
    if status in ("completed", "failed"):
        assert found["cancel"].status_code == 400
        assert status in bodies["cancel"]["detail"]
    if status == "failed":
        assert set(bodies["status"]["error"]) == {"type", "message", "details"}
        assert "failed_at" in bodies["status"]
    return status


@pytest.mark.parametrize("kind", START)
def test_garbage_in_each_field_of_a_record(
    service: Service, client: redis.Redis, kind: str
) -> None:
    id = START[kind](service)
    key, unreadable = f"rq:job:{id}", 0
    kept = client.dump(key)
    assert kept is not None
    for field in FIELDS:
        for garbage in GARBAGE:
            client.restore(key, 0, kept, replace=True)
            client.hset(key, field, garbage)
            status = check(answers(service, id))
            if status == "failed":
                error = service.status(id)["error"]
                unreadable += error["type"] == "RecordUnreadable"
                retried = service.post(f"/executions/{id}/retry", json={}).status_code
                assert retried in (202, 400) or (retried == 404 and field in ("type", "target"))
            assert (status is None) == (field == "tenant"), (field, garbage)
    assert unreadable > 20
    client.restore(key, 0, kept, replace=True)


@pytest.mark.parametrize("part", ["outputs", "data", "steps", "values"])
@pytest.mark.parametrize("kind", START)
def test_garbage_beside_a_record(
    service: Service, client: redis.Redis, kind: str, part: str
) -> None:
    id = START[kind](service)
    key, record = f"rq:job:{id}:{part}", client.dump(f"rq:job:{id}")
    kept = client.dump(key)
    assert record is not None
    for garbage in [*GARBAGE, b"x\x9cgarbage", b'{"output": NaN}', b"{", b"[" * 100_000, None]:
        client.restore(f"rq:job:{id}", 0, record, replace=True)
        client.delete(key)
        if garbage is None:
            client.rpush(key, "of another kind")
        elif part in ("steps", "values") and kept:
            client.restore(key, 0, kept, replace=True)
            for name in client.hkeys(key):
                client.hset(key, name, garbage)
            client.hset(
                key,
                mapping={"first:99999999999": garbage, "first:999999999": garbage, "x": garbage},
            )
        else:
            client.set(key, garbage)
        status = check(answers(service, id))
        assert status is not None
        assert (status == "failed") == (
            kind in ("failed", "broken off") or (part == "outputs" and garbage != b'{"a": 1}')
        )
        if status == "failed":
            assert service.post(f"/executions/{id}/retry", json={}).status_code in (202, 400)


def test_the_others_go_on_beside_a_hundred_records_that_make_no_sense(
    service: Service, client: redis.Redis
) -> None:
    done = [service.run("behaves", {"do": "echo"})["execution_id"] for _ in range(3)]
    for number in range(100):
        id = f"exec_garbage{number:08d}"
        client.hset(
            f"rq:job:{id}",
            mapping={"status": "queued", "tenant": "default", "created_at": "1" * 20},
        )
        client.rpush("rq:queue:processes", id)
        client.zadd("exec:index:default:pending:agent", {id: 9e15})
        client.zadd("exec:waiting", {id: 1})
    assert service.run("behaves", {"do": "echo"})["status"] == "completed"
    assert service.get("/executions?page_size=100").status_code == 200
    assert {service.status(id)["status"] for id in done} == {"completed"}
    for number in range(100):
        assert service.status(f"exec_garbage{number:08d}")["error"]["type"] == "RecordUnreadable"
