"""The keys and bytes that the store keeps for an ended execution."""

from __future__ import annotations

import json

import redis

from app.domain.identifiers import new_id
from app.domain.payload import pack
from tests.store.driver import Driver

COUNT = 1000
LIMIT_BYTES = 1800


def test_a_small_execution_holds_less_than_1800_bytes(redis_client: redis.Redis) -> None:
    """300 bytes in, 300 bytes out. The store's own figure, so what its allocator rounds up counts
    too.
    """
    driver = Driver(redis_client)
    _run(driver, 100)  # the lists outgrow their compact form
    _fill_feed(redis_client)
    before = redis_client.info("memory")["used_memory"]
    _run(driver, COUNT)
    assert (redis_client.info("memory")["used_memory"] - before) / COUNT < LIMIT_BYTES


def _fill_feed(client: redis.Redis) -> None:
    """Fills the feed of the tenant. Its length is limited, so it does not grow with executions."""
    change = json.dumps([3, new_id(), "completed", "agent", "echo", None])
    with client.pipeline(transaction=False) as pipe:
        for _ in range(11_000):
            pipe.xadd("exec:changes:default", {"e": change}, maxlen=10_000)
        pipe.execute()


def test_big_inputs_and_outputs_are_stored_compressed(redis_client: redis.Redis) -> None:
    driver, text = Driver(redis_client), "many words that come again " * 10_000
    id = driver.submit(inputs={"text": text})
    [(_, token)] = driver.claim()
    outputs = json.dumps({"output": text}).encode()
    driver.finish(id, token, outputs=pack(outputs))
    held = sum(redis_client.memory_usage(key) for key in redis_client.keys(f"rq:job:{id}*"))
    assert held < len(text) / 20
    execution = driver.store.get(id, "default")
    assert execution is not None
    assert execution.outputs == outputs


def _run(driver: Driver, count: int) -> None:
    inputs, outputs = {"text": "x" * 285}, pack(json.dumps({"output": "y" * 287}).encode())
    for _ in range(count):
        driver.submit(inputs=inputs, queue="processes")
    for id, token in driver.claim(count=count):
        driver.finish(id, token, outputs=outputs)
