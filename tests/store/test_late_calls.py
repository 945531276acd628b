"""The network delivers calls late: after newer ones, or after the store lost its last writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from app.domain.execution import Include, StepRecord, StepStatus
from tests.store.driver import Driver
from tools.embedded_store import EmbeddedStore


def test_a_claim_that_arrives_after_its_worker_has_given_it_up_takes_nothing(
    driver: Driver,
) -> None:
    driver.fence("w1", 1)
    driver.fence("w1", 3)  # claim 2 is on its way, and nobody waits for it any more
    id = driver.submit()
    assert driver.claim_by_number("w1", 2) is None
    assert driver.status(id) == "pending"
    assert driver.claim_by_number("w1", 4) != []


def test_a_claim_that_arrives_twice_takes_something_once(driver: Driver) -> None:
    driver.fence("w1", 1)
    driver.submit(), driver.submit()
    assert len(driver.claim_by_number("w1", 2) or []) == 1
    assert driver.claim_by_number("w1", 2) is None


@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_claim_of_a_worker_that_the_store_does_not_know_takes_nothing(
    driver: Driver, number: int
) -> None:
    """It has left, its death was noticed, or the store was emptied."""
    id = driver.submit()
    assert driver.claim_by_number("w1", number) is None
    assert driver.status(id) == "pending"


def test_a_fence_that_arrives_late_lets_no_old_claim_in(driver: Driver) -> None:
    driver.fence("w1", 5)
    driver.fence("w1", 3)
    driver.submit()
    assert driver.claim_by_number("w1", 4) is None
    assert driver.claim_by_number("w1", 6) != []


def test_the_numbers_of_one_worker_are_no_others(driver: Driver) -> None:
    driver.fence("w1", 5)
    driver.fence("w2", 1)
    driver.submit()
    assert len(driver.claim_by_number("w2", 2) or []) == 1


def test_numbers_that_lua_would_round_are_told_apart(driver: Driver) -> None:
    """Above 2^53 neighbours are one number; a worker never gets there, and 10^15 claims are still
    exact.
    """
    driver.fence("w1", 10**15)
    driver.submit()
    [(_, token)] = driver.claim_by_number("w1", 10**15 + 1) or []
    assert token == f"w1:{10**15 + 1}:1"
    assert driver.claim_by_number("w1", 10**15 + 1) is None


def shown_progress(driver: Driver, id: str) -> tuple[int, int]:
    progress = driver.stored(id).progress
    assert progress is not None
    return progress.finished, progress.total


def test_progress_that_arrives_late_does_not_go_back(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    usage = '{"m":[1,1,1,2]}'
    assert driver.beat(id, token, "[3,9,null]", number=2, usage=usage) == "ok"
    assert driver.beat(id, token, "[1,9,null]", number=1, usage='{"m":[0,0,0,0]}') == "ok"
    assert shown_progress(driver, id) == (3, 9)
    assert driver.client.hget(f"rq:job:{id}", "usage") == usage.encode()
    assert driver.beat(id, token, "[4,9,null]", number=3) == "ok"
    assert shown_progress(driver, id) == (4, 9)


def test_the_reports_of_the_next_attempt_begin_anew(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.beat(id, token, "[3,9,null]", number=50)
    driver.checkpoint(id, token, (record("a", StepStatus.RUNNING), "started"), number=50)
    driver.release(id, token)
    [(_, token)] = driver.claim()
    driver.beat(id, token, "[1,9,null]", number=1)
    assert shown_progress(driver, id) == (1, 9)
    driver.checkpoint(id, token, (record("a", StepStatus.COMPLETED, done=True), "ended"), number=1)
    assert steps(driver, id) == {"a": StepStatus.COMPLETED}


def record(id: str, status: StepStatus, done: bool = False) -> StepRecord:
    return StepRecord(id, 0, status, id, "agent", "flow", done=done, attempt=1)


def steps(driver: Driver, id: str) -> dict[str, StepStatus]:
    return {step.id: step.status for step in driver.stored(id, Include.STEPS).steps}


def test_a_checkpoint_that_arrives_late_takes_no_finished_step_back(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    begin = (record("a", StepStatus.RUNNING), "started")
    end = (record("a", StepStatus.COMPLETED, done=True), "ended")
    assert driver.checkpoint(id, token, begin, number=1) == "ok"
    assert driver.checkpoint(id, token, end, values={"a": b"1"}, number=2) == "ok"
    assert driver.checkpoint(id, token, begin, number=1) == "ok"
    assert steps(driver, id) == {"a": StepStatus.COMPLETED}
    assert driver.client.hget(f"rq:job:{id}:values", "a") == b"1"


def test_a_checkpoint_that_broke_off_is_stored_when_it_is_repeated(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.checkpoint(id, token, (record("a", StepStatus.RUNNING), "started"), number=1)
    driver.client.set(f"rq:job:{id}:values", "somebody else's")
    end = (record("a", StepStatus.COMPLETED, done=True), "ended")
    with pytest.raises(redis.ResponseError):
        driver.checkpoint(id, token, end, values={"a": b"1"}, number=2)
    driver.client.delete(f"rq:job:{id}:values")
    assert driver.checkpoint(id, token, end, values={"a": b"1"}, number=2) == "ok"
    assert driver.client.hget(f"rq:job:{id}:values", "a") == b"1"


LATE: dict[str, Callable[[Driver, str, str], object]] = {
    "beat": lambda driver, id, token: driver.beat(id, token, "[9,9,null]"),
    "checkpoint": lambda driver, id, token: driver.checkpoint(
        id, token, (record("a", StepStatus.RUNNING), "started")
    ),
    "finish": lambda driver, id, token: driver.finish(id, token, outputs='{"output":"late"}'),
    "handed_back": lambda driver, id, token: driver.release(id, token),
    "lost": lambda driver, id, token: driver.release(id, token, "lost"),
    "failed": lambda driver, id, token: driver.release(id, token, "failed", 1),
}


@pytest.mark.parametrize("call", LATE)
@pytest.mark.parametrize("state", ["pending", "running", "completed"])
def test_what_an_earlier_attempt_sent_changes_nothing_for_a_later_one(
    driver: Driver, call: str, state: str
) -> None:
    id = driver.submit()
    [(_, old)] = driver.claim("w1")
    driver.release(id, old, "lost")
    if state != "pending":
        [(_, new)] = driver.claim("w2")
    if state == "completed":
        driver.finish(id, new)
    before = {key: driver.client.dump(key) for key in driver.client.keys(f"rq:job:{id}*")}
    LATE[call](driver, id, old)
    assert {key: driver.client.dump(key) for key in driver.client.keys(f"rq:job:{id}*")} == before
    assert driver.status(id) == state


@pytest.fixture
def going_back(own_store: EmbeddedStore, tmp_path: Path) -> Callable[[], Callable[[], None]]:
    """Remembers the store as it is on disk; what it returns puts the store back to that."""

    def remember() -> Callable[[], None]:
        with redis.Redis.from_url(own_store.url) as client:
            client.set("last", "write")  # of this connection, for which the next call waits
            client.execute_command("WAITAOF", 1, 0, 30_000)
        own_store.kill()
        saved = tmp_path / "saved"
        shutil.copytree(own_store.folder, saved)
        own_store.start()

        def go_back() -> None:
            own_store.kill()
            shutil.rmtree(own_store.folder)
            shutil.copytree(saved, own_store.folder)
            own_store.start()

        return go_back

    return remember


def test_two_workers_never_hold_the_same_token_though_the_store_lost_a_claim(
    own_store: EmbeddedStore, going_back: Callable[[], Callable[[], None]]
) -> None:
    with redis.Redis.from_url(own_store.url) as client:
        id = Driver(client).submit()
        go_back = going_back()
        [(_, first)] = Driver(client).claim("w1")
        go_back()
        driver = Driver(client)
        [(_, second)] = driver.claim("w2")
        assert first != second
        assert driver.beat(id, first) == "lost"
        assert driver.finish(id, first, outputs='{"output":"of w1"}') == "lost"
        assert driver.finish(id, second, outputs='{"output":"of w2"}') == "completed"
        assert b"of w2" in driver.client.get(f"rq:job:{id}:outputs")  # type: ignore[operator]


def test_one_worker_never_gets_a_token_twice_though_the_store_lost_its_claims(
    own_store: EmbeddedStore, going_back: Callable[[], Callable[[], None]]
) -> None:
    with redis.Redis.from_url(own_store.url) as client:
        driver = Driver(client)
        driver.fence("w1", 1)
        driver.submit()
        go_back = going_back()
        [(_, first)] = driver.claim_by_number("w1", 2) or []
        go_back()
        assert (
            driver.claim_by_number("w1", 3) is None
        )  # so the worker learns that the store went back
        driver.fence("w1", 4)
        [(_, second)] = driver.claim_by_number("w1", 5) or []
        assert first != second
