"""Cheap polling: `version`, `ETag`, `If-None-Match` and `Retry-After` of a status."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import requests

from app.api import polling
from tests.support.service import Service

Make = Callable[..., Service]
MISSING = "exec_00000000000000000000"
RECORD = "rq:job:"


def poll(service: Service, id: str, known: str | None = None, query: str = "") -> requests.Response:
    headers = {} if known is None else {"If-None-Match": known}
    return service.get(f"/executions/{id}{query}", headers=headers)


@pytest.fixture
def ended(service: Service) -> str:
    id = service.start("behaves", {"do": "echo"})
    service.ended(id)
    return id


def test_the_version_grows_with_every_change_and_the_etag_names_it(shared_service: Make) -> None:
    service = shared_service()
    id = service.start(
        "behaves", {"do": "progress", "steps": 3, "pause": 0.4}, config={"flow_id": "thread"}
    )
    seen: list[tuple[int, Any]] = []
    deadline = time.monotonic() + 60
    while not seen or seen[-1][1] != "completed":
        assert time.monotonic() < deadline
        answer = poll(service, id)
        body = answer.json()
        assert answer.headers["ETag"] == f'"v{body["version"]}"'
        if not seen or seen[-1] != (body["version"], body["status"]):
            seen.append((body["version"], body["status"]))
    versions = [version for version, _ in seen]
    assert versions == sorted(versions)
    by_status = {status: {v for v, known in seen if known == status} for _, status in seen}
    together = [version for found in by_status.values() for version in found]
    assert len(together) == len(set(together))  # no version has two statuses
    again = poll(service, id)
    assert again.json()["version"] == versions[-1] >= 3


def test_a_known_version_is_answered_with_304_and_no_body(service: Service, ended: str) -> None:
    first = poll(service, ended)
    again = poll(service, ended, first.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
    assert "Content-Type" not in again.headers
    # The connection goes on.
    assert poll(service, ended).content == first.content


@pytest.mark.parametrize(
    ("known", "status"),
    [
        ("{tag}", 304),
        ("W/{tag}", 304),
        ('"v0", {tag}', 304),
        ('"v0" ,W/"x,y" , {tag},"z"', 304),
        ("*", 304),
        ('"v0",\t{tag}', 304),
        ('"v0"', 200),
        ('"V{version}"', 200),
        ('"v{version} "', 200),
        ('"v{version}0"', 200),
        ("v-1", 200),
        ("", 200),
        (",,", 200),
        ('"', 200),
        ('W/"*"', 200),
    ],
)
def test_if_none_match_is_compared_as_rfc_9110_says(
    service: Service, ended: str, known: str, status: int
) -> None:
    version = service.status(ended)["version"]
    answer = poll(service, ended, known.format(tag=f'"v{version}"', version=version))
    assert answer.status_code == status


def test_every_part_of_a_status_can_be_polled_and_head_answers_alike(
    service: Service, ended: str
) -> None:
    for query in ("", "?include=steps", "?include=inputs,config"):
        tag = poll(service, ended, query=query).headers["ETag"]
        assert poll(service, ended, tag, query).status_code == 304
    head = requests.head(f"{service.url}/api/v1/executions/{ended}", timeout=30)
    assert (head.status_code, head.headers["ETag"]) == (200, tag)
    known = {"If-None-Match": tag}
    head = requests.head(f"{service.url}/api/v1/executions/{ended}", headers=known, timeout=30)
    assert head.status_code == 304


def test_a_condition_hides_no_mistake_and_no_stranger_learns_of_an_execution(
    service: Service, ended: str
) -> None:
    assert poll(service, MISSING, "*").status_code == 404
    assert poll(service, "odd id", "*").status_code == 404
    assert poll(service, ended, "*", "?include=x").status_code == 400
    assert poll(service, ended, "*", "?unknown=1").status_code == 400


def test_an_unchanged_status_is_answered_without_reading_outputs_or_steps(
    make_service: Make, redis_client: redis.Redis
) -> None:
    service = make_service()
    id = service.run("behaves", {"do": "echo", "text": "x" * 300_000})["execution_id"]
    tag = poll(service, id).headers["ETag"]
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client, client.monitor() as heard:
        client.ping()
        assert poll(service, id, tag).status_code == 304
        client.echo("done")
        read = []
        for command in heard.listen():
            if command["command"].startswith("ECHO done"):
                break
            read.append(command["command"])
    about_it = [command for command in read if id in command]
    [command] = about_it
    assert command.startswith(f"HMGET {RECORD}{id} ")
    assert "steps" not in command


def test_retry_after_grows_with_the_age_up_to_30_seconds_and_an_ended_one_has_none(
    shared_service: Make,
) -> None:
    service = shared_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    answer = poll(service, id)
    assert answer.headers["Retry-After"] == "1"
    assert poll(service, id, answer.headers["ETag"]).headers["Retry-After"] == "1"
    told = []
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        for age in (5, 45, 150, 299, 3600, 400_000):
            began = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - age))
            client.hset(RECORD + id, "created_at", began)
            found = poll(service, id)
            assert poll(service, id, found.headers["ETag"]).status_code == 304
            told.append(int(found.headers["Retry-After"]))
    assert told == sorted(told)
    assert told[0] == 1
    assert 4 <= told[1] <= 6
    assert 14 <= told[2] <= 17
    assert told[-2:] == [30, 30]
    service.cancel(id)
    answer = poll(service, id)
    assert "Retry-After" not in answer.headers
    assert "Retry-After" not in poll(service, id, answer.headers["ETag"]).headers


def test_a_clock_that_is_wrong_asks_for_no_wait_outside_the_bounds() -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    for age in (timedelta(days=-900), timedelta(0), timedelta(days=9000)):
        assert 1 <= polling.seconds_until_next(now - age) <= 30
    assert polling.seconds_until_next(now - timedelta(hours=1), waited=29.5) == 1
    assert polling.seconds_until_next(now - timedelta(hours=1), waited=60) == 1


def test_a_record_that_is_damaged_is_never_unchanged(make_service: Make) -> None:
    service = make_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    tag = poll(service, id).headers["ETag"]
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        client.hset(RECORD + id, "status", "odd")
    answer = poll(service, id, tag)
    assert answer.status_code == 200
    assert answer.json()["error"]["type"] == "RecordUnreadable"


def test_pages_may_read_the_etag_and_send_conditions_and_preferences(make_service: Make) -> None:
    service = make_service(workers=0, CORS_ORIGINS="https://app.example.com")
    id = service.start("behaves", {"do": "echo"})
    origin = {"Origin": "https://app.example.com"}
    answer = service.get(f"/executions/{id}", headers=origin)
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert {"ETag", "Retry-After", "Preference-Applied"} <= set(exposed.split(", "))
    asked = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "prefer, if-none-match",
    }
    allowed = requests.options(f"{service.url}/api/v1/executions", headers=asked, timeout=30)
    assert "prefer" in allowed.headers["Access-Control-Allow-Headers"].lower()
