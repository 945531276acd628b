"""`app.store.ends`: requests that wait for an execution's end are woken, instead of polling."""

from __future__ import annotations

import json
import threading
import time

import redis

from app.store.ends import CHANNEL, REREAD_SECONDS, Ends
from tests.store.driver import Driver


def waits(ends: Ends, id: str, looks: list[float], ended: threading.Event) -> None:
    """Does what a waiting request does: notes the time at each wake-up."""
    with ends.watching(id) as wait:
        while not ended.is_set():
            wait(30)
            looks.append(time.monotonic())


def test_every_way_to_an_end_is_published_once(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client)
    with redis_client.pubsub() as heard:
        heard.psubscribe(CHANNEL + "*")
        assert heard.get_message(timeout=5) is not None
        cancelled = driver.submit()
        driver.store.cancel(cancelled, "default")
        completed = driver.submit()
        [(_, token)] = driver.claim()
        driver.finish(completed, token, outputs=b"{}")
        ends = []
        while message := heard.get_message(timeout=0.5):
            first, final, entries = message["data"].split(b":", 2)
            if final == b"1":
                ends.append((message["channel"].decode(), json.loads(entries)[-1][1]))
    assert ends == [(CHANNEL + cancelled, "cancelled"), (CHANNEL + completed, "completed")]


def test_those_who_wait_are_woken_by_the_end_and_look_seldom_before(
    redis_client: redis.Redis,
) -> None:
    ends, looks, ended = Ends(redis_client), list[float](), threading.Event()
    threads = [
        threading.Thread(target=waits, args=(ends, "exec_1", looks, ended)) for _ in range(200)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5 * REREAD_SECONDS)
    before = len(looks)
    assert before <= 2 * len(threads)
    ended.set()
    published = time.monotonic()
    assert redis_client.publish(CHANNEL + "exec_1", "completed") == 1  # one subscription for all
    for thread in threads:
        thread.join()
    assert len(looks) >= len(threads)
    assert time.monotonic() - published < 30
    assert not ends._waiting
    deadline = time.monotonic() + 60
    while redis_client.publish(CHANNEL + "exec_1", "completed"):
        assert time.monotonic() < deadline


def test_a_subscription_that_breaks_is_made_again(redis_client: redis.Redis) -> None:
    ends = Ends(redis_client)
    with ends.watching("exec_2") as wait:
        wait(30)
        redis_client.client_kill_filter(_type="pubsub")
        deadline = time.monotonic() + 20
        while not redis_client.publish(CHANNEL + "exec_2", "completed"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_connection_that_another_thread_closes_is_made_again(redis_client: redis.Redis) -> None:
    ends = Ends(redis_client)
    with ends.watching("exec_3") as wait:
        wait(30)
        # While the listening thread reads. redis-py then fails with a TypeError there, now and then.
        for _ in range(200):
            ends._subscription.connection.disconnect()
            time.sleep(0.002)
        deadline = time.monotonic() + 20
        while not redis_client.publish(CHANNEL + "exec_3", "completed"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
