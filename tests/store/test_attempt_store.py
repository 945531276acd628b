"""`app.store.attempt_store`: lost answers to claims, and steps that are read in pieces."""

from __future__ import annotations

import asyncio

import pytest
import redis

from app.settings import Settings
from app.store.attempt_store import AttemptStore
from tests.store.driver import Driver
from tools.embedded_store import EmbeddedStore


def test_a_claim_whose_answer_was_lost_is_handed_back_beside_records_that_make_no_sense(
    redis_client: redis.Redis, store_server: EmbeddedStore
) -> None:
    driver = Driver(redis_client)
    known, lost = driver.submit(), driver.submit()
    [(_, token)] = driver.claim("w1")
    driver.claim("w1")
    redis_client.set("rq:job:exec_no_hash", "x")
    redis_client.hset("rq:job:exec_no_token", "worker_name", "w1")
    redis_client.zadd("exec:leases", {"exec_no_hash": 1, "exec_no_token": 1})

    async def hand_back() -> None:
        url = f"{store_server.url.removesuffix('/0')}?db=1"
        store = AttemptStore(Settings(redis_url=url), "processes", "w1")
        await store.hand_back_others({(known, token)})
        await store.close()

    asyncio.run(hand_back())
    assert (driver.status(known), driver.status(lost)) == ("running", "pending")


def read_steps(store_server: EmbeddedStore, id: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    async def read() -> tuple[dict[str, bytes], dict[str, bytes]]:
        store = AttemptStore(
            Settings(redis_url=f"{store_server.url.removesuffix('/0')}?db=1"), "processes", "w1"
        )
        try:
            return await store.read_steps(id)
        finally:
            await store.close()

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("fields", "size"), [(0, 0), (3, 10), (1200, 1), (5, 600_000), (20_000, 20)]
)
def test_stored_steps_are_read_whole_in_pieces(
    redis_client: redis.Redis, store_server: EmbeddedStore, fields: int, size: int
) -> None:
    values = {f"step:{number}": b"x" * size for number in range(fields)}
    for start in range(0, fields, 1000):
        piece = dict(list(values.items())[start : start + 1000])
        redis_client.hset("rq:job:exec_1:values", mapping=piece)  # type: ignore[arg-type]
    redis_client.hset("rq:job:exec_1:steps", "step", "{}")
    assert read_steps(store_server, "exec_1") == ({"step": b"{}"}, values)
