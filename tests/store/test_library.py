"""The library of functions in the store: loaded if it is missing, one for each version of the
service, removed when no process uses it.
"""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

from app.domain.errors import StoreUnavailable
from app.settings import Settings
from app.store import connection, scripts, store_check
from app.store.attempt_store import AttemptStore, Beat
from app.store.functions import USES, Functions
from app.store.scripts import Library
from tests.store.driver import Driver, new_execution
from tools.embedded_store import EmbeddedStore


@pytest.fixture
def client(own_store: EmbeddedStore) -> redis.Redis:
    return redis.Redis.from_url(own_store.url)


def names(client: redis.Redis) -> set[str]:
    found = client.function_list(library="executions_*")
    return {
        dict(zip(fields[::2], fields[1::2], strict=True))[b"library_name"].decode()
        for fields in found
    }


def other_version() -> Library:
    return Library.of(scripts.text() + "-- another version\n")


def test_a_worker_gives_a_store_its_functions_again(
    client: redis.Redis, own_store: EmbeddedStore
) -> None:
    settings = Settings(redis_url=own_store.url)
    asyncio.run(claims_and_beats(client, settings, Driver(client, settings).submit()))


async def claims_and_beats(client: redis.Redis, settings: Settings, id: str) -> None:
    """A worker's calls of a store that loses the library before each of them."""
    store = AttemptStore(settings, "processes", "w1")
    client.function_flush()
    await store.fence()
    client.function_flush()
    [row] = await store.claim(1)
    client.function_flush()
    assert await store.beat([Beat(id, row[1].decode(), 1)]) == ["ok"]
    await store.close()


def test_a_store_keeps_the_functions_when_it_starts_again(
    client: redis.Redis, own_store: EmbeddedStore
) -> None:
    client.config_set("appendfsync", "always")
    Driver(client).submit()
    own_store.kill()
    own_store.start()
    again = redis.Redis.from_url(own_store.url)
    assert names(again) == {scripts.library().name}
    again.close()


def test_two_versions_work_beside_each_other(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = Driver(client), other_version()
    monkeypatch.setattr("app.store.functions.library", lambda: other)
    monkeypatch.setattr("app.store.together.library", lambda: other)
    theirs = Driver(client)
    id = ours.submit()
    [(_, token)] = theirs.claim()
    assert ours.finish(id, token) == "completed"
    assert names(client) == {scripts.library().name, other.name}


def test_the_library_of_a_version_that_is_gone_is_removed_after_a_day(client: redis.Redis) -> None:
    functions, other = Functions(client), other_version()
    functions.load()
    client.function_load(other.code, replace=True)
    functions.remove_unused()  # seen for the first time
    functions.remove_unused()
    assert names(client) == {scripts.library().name, other.name}
    client.hset(USES, other.name, int(time.time()) - 90_000)
    functions.remove_unused()
    assert names(client) == {scripts.library().name}
    assert not client.hexists(USES, other.name)


def test_a_version_that_reaps_is_in_use(client: redis.Redis) -> None:
    Driver(client).reap()
    used = client.hget(USES, scripts.library().name)
    assert used is not None
    assert abs(int(used) - time.time()) < 600


@pytest.mark.parametrize("forbidden", ["-fcall", "-function"])
def test_a_store_that_forbids_functions_is_named_in_one_sentence(
    client: redis.Redis, own_store: EmbeddedStore, forbidden: str
) -> None:
    client.acl_setuser(
        "managed", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", forbidden]
    )
    with redis.Redis.from_url(own_store.url.replace("unix://", "unix://managed:x@")) as managed:
        checks = {check.name: check for check in store_check.check_store(managed)}
        found = checks["scripts"]
        assert found.status == "failed"
        assert found.detail.startswith("The store does not allow this service to use functions: ")
        assert found.setting == "the ACL of the service's user: allow FCALL and FUNCTION"
        with pytest.raises(StoreUnavailable, match="ACL"), connection.translated():
            Functions(managed)("submit", [])


def test_functions_that_only_read_answer_on_a_store_that_takes_no_writes(
    client: redis.Redis,
) -> None:
    driver = Driver(client)
    id, broken = driver.submit(), driver.submit()
    client.hset(f"rq:job:{broken}", "created_at", "yesterday")
    client.replicaof("127.0.0.1", 1)
    client.config_set("replica-serve-stale-data", "yes")
    assert driver.status(id) == "pending"
    assert driver.status(broken) == "failed"
    assert driver.listed() == {id, broken}
    assert driver.run("observe", 12_000_000, "processes")[3][0][0] == 2


def test_a_full_store_takes_no_new_executions_and_lets_others_end(client: redis.Redis) -> None:
    driver = Driver(client)
    id = driver.submit()
    [(_, token)] = driver.claim()
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        driver.run("submit", new_execution().id)
    assert driver.finish(id, token) == "completed"
