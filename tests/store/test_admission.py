"""What lets a new execution in, on a real store: idempotency keys."""

from __future__ import annotations

import pytest
import redis

from app.errors import KeyReused
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
