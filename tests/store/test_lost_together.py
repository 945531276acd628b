"""Several executions lose their worker or process together, and any of them may be the cause."""

from __future__ import annotations

import pytest

from app.worker.claim import ALONE, SOLE, Claim
from tests.store.driver import Driver


def claimed(driver: Driver, worker: str, count: int = 1) -> dict[str, Claim]:
    driver.let_delays_be_over()
    found = map(Claim.from_row, driver.claim_rows(count, worker))
    return {claim.id: claim for claim in found}


def outcomes(driver: Driver, id: str) -> list[str]:
    return [attempt.outcome for attempt in driver.stored(id).attempts]


def test_a_worker_that_dies_costs_those_that_ran_in_it_together_no_attempt(driver: Driver) -> None:
    """They run alone from the second time on; alone it is their own fault."""
    ids = [driver.submit(max_attempts=1) for _ in range(3)]
    for number in range(SOLE):
        found = claimed(driver, f"p{number}-processes", 3)
        assert {claim.deaths for claim in found.values()} == {number}
        assert {claim.alone for claim in found.values()} == {number >= ALONE}
        driver.let_leases_run_out()
        assert {driver.status(id) for id in ids} == {"pending"}
    found = claimed(driver, "p9-processes", 3)
    assert all(claim.sole for claim in found.values())
    driver.let_leases_run_out()
    assert {driver.status(id) for id in ids} == {"failed"}
    failure = driver.stored(ids[0]).failure
    assert failure is not None
    assert failure.type == "WorkerLost"
    assert "It ran alone" in failure.message
    assert outcomes(driver, ids[0]) == ["lost"] * 4


def test_the_two_workers_of_one_process_die_together(driver: Driver) -> None:
    """One serves the threads, one the processes; the lease of the second may run out later."""
    first, second = driver.submit(max_attempts=1), driver.submit(max_attempts=1, queue="threads")
    assert driver.claim("p1-processes") != []
    assert driver.claim("p1-threads", queue="threads") != []
    for id in (first, second):
        driver.reap()
        driver.client.zadd("exec:leases", {id: 1})
        driver.reap()
        assert driver.status(id) == "pending"


def test_workers_of_other_processes_are_no_company(driver: Driver) -> None:
    lone, other = driver.submit(max_attempts=1), driver.submit()
    assert [id for id, _ in driver.claim("p1-processes")] == [lone]
    assert [id for id, _ in driver.claim("p2-processes")] == [other]
    driver.reap()
    driver.client.zadd("exec:leases", {lone: 1})
    driver.reap()
    assert driver.status(lone) == "failed"


@pytest.mark.parametrize(
    ("how", "deaths", "attempt"), [("disturbed", 1, 1), ("suspected", 2, 1), ("set_apart", 2, 0)]
)
def test_a_process_that_dies_or_hangs_with_others_in_it_costs_no_attempt(
    driver: Driver, how: str, deaths: int, attempt: int
) -> None:
    id = driver.submit(max_attempts=1)
    [(_, token)] = driver.claim()
    assert driver.release(id, token, how) == "pending"
    assert driver.release(id, token, how) == "lost"  # repeated
    assert driver.stored(id).attempt == attempt
    assert claimed(driver, "w1")[id].deaths == deaths


@pytest.mark.parametrize("how", ["disturbed", "suspected", "set_apart"])
def test_after_a_cancel_it_is_cancelled(driver: Driver, how: str) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.store.cancel(id, "default")
    assert driver.release(id, token, how) == "cancelled"


def test_processes_that_die_with_it_again_and_again_count_at_last(driver: Driver) -> None:
    id, words = driver.submit(max_attempts=2), []
    while driver.status(id) != "failed":
        driver.let_delays_be_over()
        [(_, token)] = driver.claim()
        words.append(driver.release(id, token, "disturbed"))
    assert words == ["pending"] * (SOLE + 1) + ["failed"]


def test_what_is_handed_back_with_a_delay_waits_for_it(driver: Driver) -> None:
    """Where a worker has no room for it, so that another one may have."""
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.release(id, token, delay=5_000_000, reason="unstarted")
    assert driver.claim() == []
    driver.let_delays_be_over()
    assert len(driver.claim()) == 1
    assert driver.stored(id).attempt == 1
