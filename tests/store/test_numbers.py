"""The scripts get impossible numbers as arguments, and write no impossible value."""

from __future__ import annotations

import contextlib
import json

import pytest
import redis

from app.domain.execution import Include, Retries, TargetType
from tests.store.driver import Driver

WRONG = [
    "inf",
    "-inf",
    "nan",
    "1e300",
    "-1e300",
    "-1",
    "",
    "many",
    "9" * 40,
    "-" + "9" * 40,
    "0x10",
    "1.5",
]
LEASE = 12_000_000
RECORD = ("origin", "processes", "tenant", "default", "type", "agent", "target", "echo")


@contextlib.contextmanager
def refused_or_not() -> object:
    with contextlib.suppress(redis.ResponseError):
        yield


def still_sound(driver: Driver, *ids: str) -> None:
    """Everything that was accepted is whole, and comes to its end."""
    driver.client.set("exec:grace", "")
    for id in ids:
        if driver.client.exists(f"rq:job:{id}"):
            failure = driver.stored(id).failure
            assert failure is None or failure.type != "RecordUnreadable"
    another = driver.submit()
    for _ in range(6):
        driver.let_leases_run_out()
        driver.let_delays_be_over()
        for claimed in driver.claim(count=10):
            driver.finish(*claimed)
    assert driver.status(another) == "completed"
    assert driver.client.zcard("exec:leases") == driver.client.zcard("exec:waiting") == 0
    assert driver.client.exists("exec:troubles") == 0


@pytest.mark.parametrize("wrong", WRONG)
def test_a_submit(driver: Driver, wrong: str) -> None:
    plain = json.dumps({"tenant": "default", "queue": "processes"})
    fields = [*RECORD, "timeout", "60", "max_attempts", "3"]
    calls = {
        "exec_expires0000": [wrong, "", "[]", plain, *fields],
        "exec_timeout0000": ["", "", "[]", plain, *RECORD, "timeout", wrong],
        "exec_attempts000": ["", "", "[]", plain, *fields, "max_attempts", wrong],
        "exec_steps000000": ["", "", "[]", plain, *fields, "steps", wrong],
        "exec_retries0000": ["", "", "[]", plain, *fields, "retries", wrong],
        "exec_retries0001": ["", "", "[]", plain, *fields, "retries", f"[1,{wrong}]"],
        "exec_limits00000": ["", "", "[]", limits(wrong), *fields],
    }
    for id, arguments in calls.items():
        with refused_or_not():
            driver.run("submit", id, *arguments)
    still_sound(driver, *calls)


def limits(wrong: str) -> str:
    names = ("max_unfinished", "max_length", "max_age", "ttl")
    return json.dumps(
        {"tenant": "default", "queue": "processes", "key": "k", "digest": "d"}
        | dict.fromkeys(names, wrong)
    )


@pytest.mark.parametrize("wrong", WRONG)
def test_a_release(driver: Driver, wrong: str) -> None:
    ids = [driver.submit(retries=Retries(1, (1.0,))) for _ in range(3)]
    for (id, token), how in zip(
        driver.claim(count=3), ("failed", "handed_back", "lost"), strict=True
    ):
        with refused_or_not():
            driver.run("release", id, token, "", "", how, wrong, "ValueError")
    still_sound(driver, *ids)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_claim_and_a_beat(driver: Driver, wrong: str) -> None:
    ids = [driver.submit() for _ in range(3)]
    for count, lease, number in ((wrong, LEASE, 2), (1, wrong, 2), (1, LEASE, wrong)):
        with refused_or_not():
            driver.run("fence", "w9", 1)
            driver.run("claim", "processes", "w9", count, lease, number)
    with refused_or_not():
        driver.run("fence", "w9", wrong)
    for id, token in driver.claim():
        for lease, number in ((wrong, 1), (LEASE, wrong)):
            with refused_or_not():
                driver.run(
                    "beat", lease, "processes:w1", "0/1", 9, id, token, number, "[0,1,null]", "", ""
                )
    still_sound(driver, *ids)


@pytest.mark.parametrize("wrong", [text for text in WRONG if text != "1.5"])
@pytest.mark.parametrize("place", range(4))
def test_a_checkpoint(driver: Driver, place: int, wrong: str) -> None:
    id = driver.submit(type=TargetType.PIPELINE)
    [(_, token)] = driver.claim()
    counts: list[object] = [0, 0, 0, 0]
    counts[place] = wrong
    before = driver.client.hgetall(f"rq:job:{id}")
    with (
        pytest.raises(redis.ResponseError)
        if wrong not in ("-inf", "-1e300", "-1", WRONG[9])
        else refused_or_not()
    ):
        driver.run("checkpoint", id, token, "", "", 9, 1, "[0,1,null]", "d1", *counts, "one", "{}")
    assert driver.client.hgetall(f"rq:job:{id}") == before
    assert driver.client.exists(f"rq:job:{id}:steps") == 0
    still_sound(driver, id)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_reap_and_the_reading_scripts(driver: Driver, wrong: str) -> None:
    id = driver.submit()
    driver.claim()
    for place in range(4):
        arguments: list[object] = [LEASE, LEASE, LEASE, LEASE]
        arguments[place] = wrong
        with refused_or_not():
            driver.run("reap", *arguments, "processes", "threads")
    with refused_or_not():
        driver.run("observe", wrong, "processes")
    key = "exec:index:default:running:agent"
    for page in (
        [wrong, 10, "desc", 1, key],
        [0, wrong, "desc", 1, key],
        [0, 10, "desc", wrong, key],
    ):
        with refused_or_not():
            driver.run("page", *page, "status", "tenant", "type")
    driver.run("status", id, "default", Include.STATUS, "status", "tenant", "type")
    driver.client.delete("exec:reaped")
    still_sound(driver, id)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_count(driver: Driver, wrong: str) -> None:
    with refused_or_not():
        driver.run("count", "me", wrong, "mc:m", 1)
    driver.client.delete("exec:reported:me", "exec:metrics")
    driver.run("count", "me", 1, "mc:m", wrong, "mc:n", 2)
    driver.client.set("exec:reported:me", wrong)
    driver.run("count", "me", 2, "mc:n", 3)
    counts = driver.client.hgetall("exec:metrics")
    assert (counts.get(b"mc:m"), counts[b"mc:n"]) == (None, b"5")


def test_a_finish_with_a_status_that_is_none(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    for wrong in ("", "pending", "running", "exploded"):
        with pytest.raises(redis.ResponseError):
            driver.run("finish", id, token, "", "", wrong, "", "")
    assert driver.status(id) == "running"
    still_sound(driver, id)


@pytest.mark.parametrize("field", ["attempt", "lost", "retried"])
def test_a_counter_that_is_as_large_as_it_may_be_stays_so(driver: Driver, field: str) -> None:
    id = driver.submit(max_attempts=999_999_999)
    driver.client.hset(f"rq:job:{id}", field, 999_999_999 if field != "lost" else 999_999_997)
    [(_, token)] = driver.claim()
    driver.run(
        "release", id, token, "", "", "failed" if field == "retried" else "lost", 0, "ValueError"
    )
    still_sound(driver, id)
