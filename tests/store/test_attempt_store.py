"""What a worker does with the store beside the transitions themselves."""

from __future__ import annotations

import asyncio

import redis

from app.settings import Settings
from app.work.attempt_store import AttemptStore
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
    redis_client.hset("rq:job:exec_no_token", "worker", "w1")
    redis_client.zadd("exec:leases", {"exec_no_hash": 1, "exec_no_token": 1})

    async def hand_back() -> None:
        url = f"{store_server.url.removesuffix('/0')}?db=1"
        store = AttemptStore(Settings(redis_url=url), "processes", "w1")
        await store.hand_back_others({(known, token)})
        await store.close()

    asyncio.run(hand_back())
    assert (driver.status(known), driver.status(lost)) == ("running", "pending")
