"""Each transition on a real store: what it changes, and what it refuses."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest
import redis

from app.domain.errors import StoreFull, StoreRefused
from app.domain.execution import Phase, Progress, Retries, Status
from app.settings import Settings
from app.store.execution_lists import index_keys
from app.store.executions import ExecutionStore
from app.store.job import ExecutionJob
from app.store.job_reader import STATUS_OF_RQ
from tests.store.driver import LONG_AGO, Driver, new_execution, registry


def test_a_submitted_execution_is_pending_queued_and_listed(driver: Driver) -> None:
    id = driver.submit()
    execution = driver.store.get(id, "default")
    assert execution is not None
    assert (execution.status, execution.phase, execution.attempt) == (
        Status.PENDING,
        Phase.QUEUED,
        0,
    )
    assert execution.started_at is None
    assert driver.listed() == driver.listed(Status.PENDING) == {id}
    assert driver.client.lrange("rq:queue:processes", 0, -1) == [id.encode()]


def test_submitting_again_changes_nothing_and_answers_the_same(driver: Driver) -> None:
    new = new_execution()
    assert driver.store.submit(new) == driver.store.submit(new)
    assert driver.client.llen("rq:queue:processes") == 1


def test_claiming_takes_the_oldest_first_and_several_at_once(driver: Driver) -> None:
    ids = [driver.submit() for _ in range(5)]
    assert [id for id, _ in driver.claim(count=3)] == ids[:3]
    assert [id for id, _ in driver.claim(count=3)] == ids[3:]


def test_every_attempt_has_a_token_of_its_own(driver: Driver) -> None:
    id, tokens = driver.submit(), []
    for worker in ("w1", "w2", "w1"):
        [(_, token)] = driver.claim(worker)
        tokens.append(token)
        driver.release(id, token)
    for _ in range(4):
        driver.submit()
    tokens += [token for _, token in driver.claim(count=5)]
    assert len(tokens) == 8
    assert len(set(tokens)) == len(tokens)


def test_what_is_handed_back_again_and_again_counts_as_lost_at_last(driver: Driver) -> None:
    """A flow that ends its worker by SIGTERM would be run for ever."""
    id = driver.submit(max_attempts=2)
    words = []
    while driver.status(id) != "failed":
        driver.let_delays_be_over()
        [(_, token)] = driver.claim()
        words.append(driver.release(id, token))
    assert words == ["pending"] * 21 + ["failed"]
    failure = driver.stored(id).failure
    assert failure is not None
    assert (failure.type, driver.stored(id).attempt) == ("WorkerLost", 2)


def test_what_could_never_be_started_is_handed_back_as_often_as_it_takes(driver: Driver) -> None:
    id = driver.submit(max_attempts=1)
    for _ in range(50):
        [(_, token)] = driver.claim()
        assert driver.release(id, token, reason="unstarted") == "pending"
    assert driver.stored(id).attempt == 0


def test_an_execution_that_is_delivered_twice_is_claimed_once(driver: Driver) -> None:
    id = driver.submit()
    driver.client.rpush("rq:queue:processes", id, id)
    assert len(driver.claim(count=10)) == 1
    assert driver.client.llen("rq:queue:processes") == 0


def test_a_cancelled_pending_execution_is_never_claimed_even_if_it_is_still_in_the_queue(
    driver: Driver,
) -> None:
    id = driver.submit()
    assert driver.store.cancel(id, "default") is Status.CANCELLED
    driver.client.rpush("rq:queue:processes", id)
    assert driver.claim() == []
    assert driver.status(id) == "cancelled"


def test_cancelling_a_running_execution_marks_it_and_tells_its_worker(driver: Driver) -> None:
    id = driver.submit()
    listener = driver.client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("rq:pubsub:w1")
    listener.get_message(timeout=1)
    [(_, token)] = driver.claim("w1")
    assert driver.store.cancel(id, "default") is Status.RUNNING
    message = listener.get_message(timeout=1)
    listener.close()
    assert message is not None
    assert id in message["data"].decode()
    assert driver.beat(id, token) == "cancel"
    execution = driver.store.get(id, "default")
    assert execution is not None
    assert execution.phase is Phase.CANCELLING


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_after_a_cancel_request_the_only_end_is_cancelled(driver: Driver, outcome: str) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.store.cancel(id, "default")
    assert driver.finish(id, token, outcome) == "cancelled"
    execution = driver.store.get(id, "default")
    assert execution is not None
    assert (execution.status, execution.outputs, execution.failure) == (
        Status.CANCELLED,
        None,
        None,
    )


@pytest.mark.parametrize("how", ["handed_back", "failed", "lost"])
def test_a_run_that_was_to_be_cancelled_does_not_go_back_to_the_queue(
    driver: Driver, how: str
) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.store.cancel(id, "default")
    assert driver.release(id, token, how) == "cancelled"
    assert driver.claim() == []


def test_a_run_that_was_to_be_cancelled_and_whose_lease_runs_out_is_cancelled(
    driver: Driver,
) -> None:
    id = driver.submit()
    driver.claim()
    driver.store.cancel(id, "default")
    driver.let_leases_run_out()
    assert driver.status(id) == "cancelled"


@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_a_final_state_stays_whatever_comes_after_it(driver: Driver, outcome: str) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    assert driver.finish(id, token, outcome) == outcome
    before = driver.store.get(id, "default")
    assert driver.finish(id, token, outcome) == outcome  # the answer was lost: the same again
    assert driver.finish(id, "999", "failed") == "lost"
    assert driver.release(id, token, "lost") == "lost"
    assert driver.beat(id, token) == "lost"
    assert driver.store.cancel(id, "default") == outcome
    driver.let_leases_run_out()
    assert driver.store.get(id, "default") == before


def test_a_stale_token_writes_nothing(driver: Driver) -> None:
    id = driver.submit()
    [(_, old)] = driver.claim("w1")
    driver.let_leases_run_out()
    [(_, new)] = driver.claim("w2")
    assert driver.finish(id, old) == "lost"
    assert driver.beat(id, old, "[1,1,null]") == "lost"
    assert driver.release(id, old) == "lost"
    assert driver.finish(id, new) == "completed"


def test_a_result_that_is_late_counts_while_its_token_is_current(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.client.zadd("exec:leases", {id: 1})
    assert driver.finish(id, token) == "completed"


def test_a_beat_stores_progress_and_extends_the_lease(driver: Driver) -> None:
    id = driver.submit(total_steps=5)
    [(_, token)] = driver.claim()
    driver.client.zadd("exec:leases", {id: 1})
    assert driver.beat(id, token, '[2,5,"reading"]') == "ok"
    execution = driver.store.get(id, "default")
    assert execution is not None
    assert execution.progress == Progress(2, 5, "reading")
    assert execution.progress.percentage == 40.0
    assert driver.client.zscore("exec:leases", id) > 1_000_000


def test_a_lost_run_is_the_next_attempt_until_none_is_left(driver: Driver) -> None:
    id = driver.submit(max_attempts=2)
    for number in (1, 2):
        driver.claim(f"w{number}")
        driver.let_leases_run_out()
    execution = driver.store.get(id, "default")
    assert execution is not None
    assert (execution.status, execution.attempt) == (Status.FAILED, 2)
    assert execution.failure is not None
    assert execution.failure.type == "WorkerLost"
    assert execution.failure.details == {"agent_id": "echo"}
    assert [
        (attempt.number, attempt.worker, attempt.outcome) for attempt in execution.attempts
    ] == [
        (1, "w1", "lost"),
        (2, "w2", "lost"),
    ]


def test_the_second_attempt_starts_at_once_and_the_third_waits(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.release(id, token, "lost")
    [(_, token)] = driver.claim()
    driver.release(id, token, "lost")
    assert driver.claim() == []
    next_due_seconds = driver.store.reap()
    assert next_due_seconds is not None
    assert 0 < next_due_seconds <= 1
    driver.let_delays_be_over()
    assert len(driver.claim()) == 1


def test_handing_back_puts_in_front_and_uses_up_no_attempt(driver: Driver) -> None:
    first, _ = driver.submit(), driver.submit()
    [(_, token)] = driver.claim()
    assert driver.release(first, token) == "pending"
    execution = driver.store.get(first, "default")
    assert execution is not None
    assert (execution.status, execution.attempt, execution.attempts) == (Status.PENDING, 0, ())
    assert [id for id, _ in driver.claim()] == [first]


def test_a_retry_waits_and_keeps_how_the_attempt_ended(driver: Driver) -> None:
    id = driver.submit(retries=Retries(2, (1.0,)))
    [(_, token)] = driver.claim()
    assert driver.release(id, token, "failed", delay=60_000_000, reason="ValueError") == "pending"
    execution = driver.store.get(id, "default")
    assert execution is not None
    assert (execution.status, execution.phase, execution.attempt) == (
        Status.PENDING,
        Phase.RETRY_WAIT,
        1,
    )
    assert [(attempt.number, attempt.outcome) for attempt in execution.attempts] == [(1, "failed")]
    assert driver.claim() == []
    driver.let_delays_be_over()
    assert len(driver.claim()) == 1


def test_a_waiting_retry_can_be_cancelled(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.release(id, token, "failed", delay=60_000_000)
    assert driver.store.cancel(id, "default") is Status.CANCELLED
    driver.let_delays_be_over()
    assert driver.claim() == []


def test_what_does_not_start_in_time_expires_without_running(driver: Driver) -> None:
    by_reaper, by_claim = driver.submit(expires_in_seconds=60), driver.submit(expires_in_seconds=60)
    driver.client.zadd("exec:waiting", {by_reaper: 1})
    driver.store.reap()
    driver.client.hset(f"rq:job:{by_claim}", "expires", 1)
    assert driver.claim() == []
    for id in (by_reaper, by_claim):
        execution = driver.store.get(id, "default")
        assert execution is not None
        assert execution.failure is not None
        assert (execution.failure.type, execution.started_at) == ("Expired", None)


def test_once_started_it_does_not_expire_any_more(driver: Driver) -> None:
    id = driver.submit(expires_in_seconds=60)
    [(_, token)] = driver.claim()
    driver.release(id, token)
    driver.store.reap()
    assert driver.client.zscore("exec:waiting", id) == float("inf")
    assert len(driver.claim()) == 1


def test_after_a_gap_in_the_reaping_every_lease_is_granted_once_more(driver: Driver) -> None:
    id = driver.submit()
    driver.claim()
    driver.client.zadd("exec:leases", {id: 1})
    driver.client.set("exec:reaped", 1)
    driver.store.reap()
    assert driver.status(id) == "running"
    driver.let_leases_run_out()
    assert driver.status(id) == "pending"


@pytest.mark.parametrize("wrong", ["text", "list"])
def test_a_reaper_goes_on_where_the_time_of_the_last_reap_makes_no_sense(
    driver: Driver, wrong: str
) -> None:
    driver.submit()
    driver.claim()
    driver.client.delete("exec:reaped")
    if wrong == "text":
        driver.client.set("exec:reaped", "yesterday")
    else:
        driver.client.rpush("exec:reaped", "yesterday")
    driver.let_leases_run_out()
    assert len(driver.claim()) == 1


@pytest.mark.parametrize("lost", [2, 5])
def test_what_fell_out_of_the_queue_is_queued_again_in_order_of_creation(
    driver: Driver, lost: int
) -> None:
    ids = [driver.submit() for _ in range(5)]
    driver.client.lpop("rq:queue:processes", lost)
    driver.reap()
    assert [id for id, _ in driver.claim(count=10)] == ids


def test_what_is_to_be_queued_where_nobody_takes_from_ends_as_unreadable(driver: Driver) -> None:
    id, sound = driver.submit(), driver.submit()
    driver.client.hset(f"rq:job:{id}", "origin", "nowhere")
    driver.client.delete("rq:queue:processes")
    driver.reap()
    failure = driver.stored(id).failure
    assert failure is not None
    assert failure.type == "RecordUnreadable"
    assert driver.client.exists("rq:queue:nowhere") == 0
    assert [claimed for claimed, _ in driver.claim(count=10)] == [sound]


def test_retention_removes_everything_of_an_execution_and_nothing_that_lives(
    driver: Driver,
) -> None:
    pending = driver.submit()
    running = driver.submit(queue="threads")
    driver.claim(queue="threads")
    ended = driver.submit(queue="other")
    [(_, token)] = driver.claim(queue="other")
    driver.finish(ended, token)
    driver.let_retention_be_over()
    assert driver.listed() == {pending, running}
    assert driver.status(ended) is None
    assert [key for key in driver.client.keys("*") if ended.encode() in key] == []
    for key in driver.client.keys("exec:*"):
        if driver.client.type(key) == b"zset":
            assert driver.client.zscore(key, ended) is None


def test_another_tenant_sees_and_cancels_nothing(driver: Driver) -> None:
    id = driver.submit()
    assert driver.store.get(id, "acme") is None
    assert driver.store.cancel(id, "acme") is None
    assert driver.status(id) == "pending"


def test_a_full_store_refuses_starts_but_ends_cancels_and_reads(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client)
    running, pending, beating, released = (driver.submit() for _ in range(4))
    claimed = dict(driver.claim(count=1)) | {pending: ""}
    del claimed[pending]
    driver.client.lrem("rq:queue:processes", 0, pending)
    claimed |= dict(driver.claim(count=2))
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            driver.submit()
        assert driver.store.cancel(pending, "default") is Status.CANCELLED
        assert driver.beat(beating, claimed[beating], "[0,1,null]") == "ok"
        assert driver.release(released, claimed[released]) == "pending"
        assert driver.finish(running, claimed[running]) == "completed"
        assert driver.claim()[0][0] == released
        driver.store.reap()
        assert len(driver.listed()) == 4
    finally:
        redis_client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    "garbage",
    [
        {"status": "exploded"},
        {"created_at": "yesterday"},
        {"tenant": ""},
        {"attempt": "many"},
    ],
)
def test_a_record_that_makes_no_sense_does_not_stop_the_others(
    driver: Driver, garbage: dict[str, str]
) -> None:
    broken, sound = driver.submit(), driver.submit()
    driver.client.hset(f"rq:job:{broken}", mapping=garbage)
    driver.store.reap()
    assert [id for id, _ in driver.claim(count=10)] == [sound]
    assert driver.store.get(sound, "default") is not None
    driver.store.get(broken, "default")
    driver.store.cancel(broken, "default")


@contextlib.contextmanager
def held_by_somebody_else(client: redis.Redis, key: str) -> Iterator[None]:
    """Meanwhile whoever writes this key is refused; then everything is as it was."""
    kept = client.dump(key)
    client.delete(key)
    client.xadd(key, {"somebody": "else"})  # a kind that the service has no use for
    yield
    client.delete(key)
    if kept is not None:
        client.restore(key, 0, kept)


@pytest.mark.parametrize(
    "key",
    [
        "exec:waiting",
        "exec:leases",
        "exec:claims",
        "exec:delayed",
        "rq:finished:processes",
        "rq:queue:processes",
        *(
            index_keys("default", status)[0]
            for status in (Status.PENDING, Status.RUNNING, Status.COMPLETED)
        ),
    ],
)
@pytest.mark.parametrize("step", ["submit", "claim", "handed_back", "lost", "finish"])
def test_what_a_transition_that_breaks_off_has_touched_comes_to_its_end(
    driver: Driver, key: str, step: str
) -> None:
    """The store refuses one of its calls, in the middle: what was accepted before is not lost, nor
    is it held twice.
    """
    id = driver.submit() if step != "submit" else None
    token = driver.claim()[0][1] if id and step != "claim" else ""
    with (
        held_by_somebody_else(driver.client, key),
        contextlib.suppress(redis.ResponseError, StoreRefused),
    ):
        if id is None:
            driver.submit()
        elif step == "claim":
            driver.claim()
        elif step == "finish":
            driver.finish(id, token)
        else:
            driver.release(id, token, step)

    for _ in range(3):
        driver.let_leases_run_out()
        driver.let_delays_be_over()
        for claimed in driver.claim():
            assert driver.finish(*claimed) == "completed"
    execution = driver.store.get(id, "default") if id else None
    assert execution is None or execution.status is Status.COMPLETED
    assert driver.listed() == driver.listed(Status.COMPLETED)
    assert driver.listed(Status.PENDING) == driver.listed(Status.RUNNING) == set()
    assert driver.client.zcard("exec:leases") == driver.client.zcard("exec:waiting") == 0


def test_a_record_of_the_wrong_kind_does_not_stop_the_beats_of_others(driver: Driver) -> None:
    wrong, sound = (driver.submit() for _ in range(2))
    tokens = dict(driver.claim(count=2))
    driver.client.set(f"rq:job:{wrong}", "a string")
    assert driver.beats([(id, tokens[id]) for id in (wrong, sound)]) == ["lost", "ok"]


def test_a_record_of_the_wrong_kind_or_gone_is_not_found_and_leaves_the_lists(
    driver: Driver,
) -> None:
    wrong, gone, sound = driver.submit(), driver.submit(), driver.submit()
    driver.client.set(f"rq:job:{wrong}", "a string")
    driver.client.delete(f"rq:job:{gone}")
    assert driver.store.get(wrong, "default") is None
    assert driver.store.get(gone, "default") is None
    assert driver.listed() == {sound}
    assert driver.listed() == {sound}
    assert [id for id, _ in driver.claim(count=10)] == [sound]


def test_lists_are_in_order_of_creation_and_pages_join_without_a_gap(driver: Driver) -> None:
    ids = [driver.submit() for _ in range(25)]
    key = index_keys("default")
    pages = [
        driver.store.lists.page("default", key, offset, 10, descending=True)
        for offset in (0, 10, 20, 30)
    ]
    assert [execution.id for page, _ in pages for execution in page] == ids[::-1]
    assert {total for _, total in pages} == {25}
    first, _ = driver.store.lists.page("default", key, 0, 10, descending=False)
    assert [execution.id for execution in first] == ids[:10]


def test_all_eleven_states_of_rq_have_a_meaning(driver: Driver) -> None:
    from rq.job import JobStatus

    assert set(STATUS_OF_RQ) == {state.value for state in JobStatus}


def test_rq_reads_an_execution_as_a_job_whose_meta_is_its_record(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.beat(id, token, '[1,4,"reading"]')
    job = ExecutionJob.fetch(id, connection=driver.client)
    assert job.meta == {"status": "running", "progress": [1, 4, "reading"]}
    assert job.origin == "processes"
    with pytest.raises(TypeError):
        job.save_meta()


def test_a_job_that_names_another_function_is_refused(driver: Driver) -> None:
    id = driver.submit()
    driver.client.hset(f"rq:job:{id}", "data", '["os.system",null,["true"],{}]')
    with pytest.raises(ValueError, match="a function other than"):
        ExecutionJob.fetch(id, connection=driver.client)


def test_a_status_is_one_round_trip_and_does_not_read_the_inputs(driver: Driver) -> None:
    id = driver.submit(inputs={"text": "x" * 100_000})
    driver.claim()
    driver.store.get(id, "default")
    driver.client.config_resetstat()
    driver.store.get(id, "default")
    commands = {name: stats["calls"] for name, stats in driver.client.info("commandstats").items()}
    assert {name: calls for name, calls in commands.items() if "config" not in name} == {
        "cmdstat_getrange": 1,  # sent together
        "cmdstat_hmget": 1,
        "cmdstat_zscore": 1,
    }


def test_the_status_of_a_pending_one_takes_one_more_call_but_not_in_the_same_second(
    driver: Driver,
) -> None:
    id, other = driver.submit(), driver.submit()
    driver.store.get(other, "default")  # the functions are loaded
    driver.client.config_resetstat()
    first = driver.store.get(id, "default")
    second = driver.store.get(id, "default")
    stats = driver.client.info("commandstats")
    assert (stats["cmdstat_fcall"]["calls"], stats["cmdstat_getrange"]["calls"]) == (1, 2)
    assert first
    assert second
    assert first.waiting_for == second.waiting_for
    assert first.waiting_for is not None


def test_the_store_is_left_alone_for_a_second_after_it_failed(tmp_path: object) -> None:
    from app.domain.errors import StoreUnavailable

    store = ExecutionStore.connect(Settings(redis_url="redis://127.0.0.1:1/0"))
    with pytest.raises(StoreUnavailable):
        store.get("exec_000000000000", "default")
    with pytest.raises(StoreUnavailable):
        store.get("exec_000000000000", "default")


def test_a_retry_that_is_due_is_queued_again_and_says_so(driver: Driver) -> None:
    id = driver.submit()
    [(_, token)] = driver.claim()
    driver.release(id, token, "failed", delay=10_000_000)
    assert driver.stored(id).phase is Phase.RETRY_WAIT
    driver.let_delays_be_over()
    assert driver.stored(id).phase is Phase.QUEUED


def test_a_reap_that_left_something_says_that_it_is_due_at_once(driver: Driver) -> None:
    for _ in range(250):
        driver.submit()
    for id, token in driver.claim(count=250):
        driver.finish(id, token)
    for id in driver.client.zrange(registry("completed"), 0, -1):
        driver.client.zadd(registry("completed"), {id: LONG_AGO})
    assert driver.store.reap() == 0
    assert driver.reap() is None
    assert driver.listed() == set()


def test_what_is_claimed_at_once_is_limited_in_bytes(driver: Driver) -> None:
    noise = "".join(
        random.Random(1).choices("0123456789abcdef", k=1_000_000)
    )  # half of it stays, packed
    for _ in range(8):
        driver.submit(inputs={"text": noise})
    assert 2 <= len(driver.claim_rows(8)) <= 4
    assert len(driver.claim_rows(8)) >= 1
