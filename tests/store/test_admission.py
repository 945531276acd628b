"""What lets a new execution in, on a real store: idempotency keys and limits."""

from __future__ import annotations

import pytest
import redis

from app.errors import KeyReused, QueueFull, TooManyUnfinished
from app.executions.model import Idempotency
from app.settings import Settings
from tests.store.driver import Driver, new_execution


@pytest.fixture
def driver(redis_client: redis.Redis) -> Driver:
    return Driver(redis_client)


def test_a_key_belongs_to_its_tenant(driver: Driver) -> None:
    key = Idempotency("same", "digest")
    ours, theirs, again = (
        driver.store.submit(new_execution(tenant=tenant, idempotency=key)) for tenant in ("ours", "theirs", "ours")
    )
    assert ours.execution_id != theirs.execution_id
    assert (again.execution_id, again.created_at, again.replayed) == (ours.execution_id, ours.created_at, True)
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


def test_a_key_lives_as_long_as_it_is_set_to_and_a_replay_does_not_extend_it(redis_client: redis.Redis) -> None:
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
    client.hset(key, "created", int(client.hget(key, "created") or 0) - int(seconds * 1_000_000))


def test_nothing_new_is_let_in_while_the_oldest_waits_for_too_long(redis_client: redis.Redis) -> None:
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
    tight = Driver(redis_client, Settings(max_unfinished=1, max_queue_length=1, max_queue_age=0.001))
    assert tight.store.submit(new_execution(idempotency=key)).execution_id == new.id
    assert tight.store.submit(new).execution_id == new.id
    with pytest.raises(TooManyUnfinished):
        tight.submit()
