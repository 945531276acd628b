"""Which new executions the store accepts: idempotency keys and limits, on a real store."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import redis
from rq.utils import utcformat

from app.domain.errors import KeyReused, QueueFull, TooManyUnfinished, TooMuchRetried
from app.domain.execution import Idempotency, StepRecord, StepStatus, TargetType
from app.settings import Settings
from app.store.job_reader import read_time
from tests.store.driver import LONG_AGO, Driver, new_execution, registry


def test_a_key_belongs_to_its_tenant(driver: Driver) -> None:
    key = Idempotency("same", "digest")
    ours, theirs, again = (
        driver.store.submit(new_execution(tenant=tenant, idempotency=key))
        for tenant in ("ours", "theirs", "ours")
    )
    assert ours.execution_id != theirs.execution_id
    assert (again.execution_id, again.created_at, again.replayed) == (
        ours.execution_id,
        ours.created_at,
        True,
    )
    assert driver.store.submit(
        new_execution(tenant="theirs", idempotency=Idempotency("other", "else"))
    ).execution_id not in (ours.execution_id, theirs.execution_id)


def test_a_call_that_is_repeated_because_its_answer_was_lost_is_no_replay(driver: Driver) -> None:
    new = new_execution(idempotency=Idempotency("key", "digest"))
    assert driver.store.submit(new) == driver.store.submit(new)
    assert not driver.store.submit(new).replayed


def test_a_reused_key_stores_nothing(driver: Driver) -> None:
    driver.store.submit(new_execution(idempotency=Idempotency("key", "digest")))
    before = driver.client.dbsize()
    with pytest.raises(KeyReused):
        driver.store.submit(new_execution(idempotency=Idempotency("key", "another")))
    assert driver.client.dbsize() == before
    assert len(driver.listed()) == 1


def test_a_key_lives_as_long_as_it_is_set_to_and_a_replay_does_not_extend_it(
    redis_client: redis.Redis,
) -> None:
    driver = Driver(redis_client, Settings(idempotency_ttl=100))
    key = Idempotency("key", "digest")
    driver.store.submit(new_execution(idempotency=key))
    redis_client.pexpire("exec:idempotency:default:key", 50_000)
    driver.store.submit(new_execution(idempotency=key))
    assert redis_client.pttl("exec:idempotency:default:key") <= 50_000
    driver.store.submit(new_execution(idempotency=Idempotency("new", "digest")))
    assert 99_000 < redis_client.pttl("exec:idempotency:default:new") <= 100_000


def test_a_tenant_has_no_more_unfinished_executions_than_it_may(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client, Settings(max_unfinished=3))
    counts = [driver.store.submit(new_execution()).unfinished for _ in range(3)]
    assert counts == [1, 2, 3]
    [(id, token)] = driver.claim()
    before = redis_client.dbsize()
    with pytest.raises(TooManyUnfinished):
        driver.submit()
    assert redis_client.dbsize() == before
    driver.submit(tenant="another")
    driver.finish(id, token)
    driver.submit()
    with pytest.raises(TooManyUnfinished):
        driver.submit()


def test_a_queue_is_no_longer_than_it_may_be_whoever_fills_it(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client, Settings(max_queue_length=2))
    driver.submit(tenant="one")
    driver.submit(tenant="two")
    before = redis_client.dbsize()
    with pytest.raises(QueueFull):
        driver.submit(tenant="three")
    assert redis_client.dbsize() == before
    driver.submit(queue="threads")
    driver.claim()
    driver.submit()


def _make_older(client: redis.Redis, id: str, seconds: float) -> None:
    key = f"rq:job:{id}"
    created_at = read_time(client.hget(key, "created_at") or b"") - timedelta(seconds=seconds)
    client.hset(key, "created_at", utcformat(created_at))


def test_nothing_new_is_let_in_while_the_oldest_waits_for_too_long(
    redis_client: redis.Redis,
) -> None:
    driver = Driver(redis_client, Settings(max_queue_age=60))
    old = driver.submit()
    driver.submit()
    _make_older(redis_client, old, 59)
    driver.submit()
    _make_older(redis_client, old, 2)
    with pytest.raises(QueueFull):
        driver.submit()
    driver.submit(queue="threads")
    driver.claim()
    driver.submit()


def test_what_was_handed_back_did_not_wait_since_its_creation(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client, Settings(max_queue_age=60))
    id = driver.submit()
    [(_, token)] = driver.claim()
    _make_older(redis_client, id, 3600)
    driver.release(id, token)
    driver.submit()


def test_a_repeat_is_answered_whatever_limit_is_reached(redis_client: redis.Redis) -> None:
    key = Idempotency("key", "digest")
    new = new_execution(idempotency=key)
    Driver(redis_client).store.submit(new)
    tight = Driver(
        redis_client, Settings(max_unfinished=1, max_queue_length=1, max_queue_age=0.001)
    )
    assert tight.store.submit(new_execution(idempotency=key)).execution_id == new.id
    assert tight.store.submit(new).execution_id == new.id
    with pytest.raises(TooManyUnfinished):
        tight.submit()


@pytest.fixture
def large(redis_client: redis.Redis) -> tuple[Driver, str]:
    """Retries may copy 1 MB; a failed pipeline, whose steps have put out 300 kB."""
    driver = Driver(redis_client, Settings(max_retried_bytes=1_000_000))
    id = driver.submit(type=TargetType.PIPELINE)
    [(id, token)] = driver.claim()
    step = StepRecord("one", 0, StepStatus.COMPLETED, "first", "agent", done=True)
    driver.checkpoint(id, token, (step, "ended"), values={"one": os.urandom(300_000)})
    driver.finish(id, token, "failed")
    return driver, id


def test_retries_copy_no_more_than_a_tenant_may_and_make_room_when_they_leave(
    large: tuple[Driver, str],
) -> None:
    driver, id = large
    for _ in range(3):
        driver.submit(retry_of=id, take_over=True)
    before = driver.client.info("memory")["used_memory_dataset"], driver.client.dbsize()
    for _ in range(20):
        with pytest.raises(TooMuchRetried, match="1000000 bytes"):
            driver.submit(retry_of=id, take_over=True)
    assert driver.client.info("memory")["used_memory_dataset"] < before[0] + 100_000
    assert driver.client.dbsize() == before[1]
    driver.submit(retry_of=id)  # from the start: it costs what a start costs
    driver.submit(tenant="another", retry_of=id, take_over=True)
    for id_of_retry, token in driver.claim(count=1):
        driver.finish(id_of_retry, token)
    driver.client.zadd(registry("completed"), {id_of_retry: LONG_AGO})
    driver.store.reap()
    driver.submit(retry_of=id, take_over=True)
    with pytest.raises(TooMuchRetried):
        driver.submit(retry_of=id, take_over=True)


def test_a_chain_of_retries_is_counted_too(large: tuple[Driver, str]) -> None:
    driver, id = large
    for _ in range(3):
        retry = driver.submit(retry_of=id, take_over=True)
        driver.store.cancel(retry, "default")
        id = retry
    with pytest.raises(TooMuchRetried):
        driver.submit(retry_of=id, take_over=True)


def test_large_inputs_are_counted_and_small_retries_are_not(large: tuple[Driver, str]) -> None:
    driver, id = large
    for _ in range(50):
        driver.submit(retry_of=id)
    inputs = {"text": os.urandom(400_000).hex()}
    driver.submit(retry_of=id, inputs=inputs)
    driver.submit(retry_of=id, inputs=inputs)
    with pytest.raises(TooMuchRetried):
        driver.submit(retry_of=id, inputs=inputs)
    driver.submit(inputs=inputs)  # a start sends what it stores


def test_without_the_limit_nothing_is_counted(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client, Settings(max_retried_bytes=0))
    for _ in range(3):
        driver.submit(retry_of=driver.submit(), inputs={"text": os.urandom(100_000).hex()})
    assert not redis_client.exists("exec:copied:default")


def test_a_repeated_retry_is_counted_once(large: tuple[Driver, str]) -> None:
    driver, id = large
    new = new_execution(retry_of=id, take_over=True)
    for _ in range(20):
        driver.store.submit(new)
    driver.submit(retry_of=id, take_over=True)
    driver.submit(retry_of=id, take_over=True)
