"""`app.store.changes`: requests hear of an execution's changes, through one subscription."""

from __future__ import annotations

import threading
import time

import redis

from app.store.changes import CHANNEL, MOST_BYTES, Change, Changes, Watch
from tests.store.driver import Driver
from tests.support.pace import until

SOON = 60.0


def subscribed(watch: Watch) -> None:
    """Waits until no later change can be missed."""
    until(lambda: watch.wait(1) == [] and watch.must_read)


def taken(watch: Watch, count: int) -> list[Change]:
    found: list[Change] = []
    until(lambda: len(found) >= count or found.extend(watch.wait(1)))
    return found


def publish(client: redis.Redis, id: str, payload: bytes) -> int:
    return int(client.publish(CHANNEL + id.encode(), payload))


def test_every_way_to_an_end_is_heard_of_once(redis_client: redis.Redis) -> None:
    driver, changes = Driver(redis_client), Changes(redis_client.connection_pool)
    cancelled, completed = driver.submit(), driver.submit(queue="threads")
    with (
        changes.watching(cancelled, final_only=True) as first,
        changes.watching(completed, final_only=True) as second,
    ):
        subscribed(first)
        subscribed(second)
        driver.store.cancel(cancelled, "default")
        [(_, token)] = driver.claim(queue="threads")
        driver.finish(completed, token, outputs=b"{}")
        assert [change.final for change in taken(first, 1)] == [True]
        assert [change.final for change in taken(second, 1)] == [True]
        driver.store.cancel(cancelled, "default")
        assert first.wait(0.2) == second.wait(0) == []


def test_changes_arrive_in_order_and_whole(redis_client: redis.Redis) -> None:
    changes = Changes(redis_client.connection_pool)
    with changes.watching("exec_1") as watch, changes.watching("exec_1", final_only=True) as waiter:
        subscribed(watch)
        subscribed(waiter)
        for number in range(1, 400):
            publish(redis_client, "exec_1", b'%d:0:[[5,"log",{"a":":"}]]' % number)
        publish(redis_client, "exec_1", b"400:1:[]")
        assert taken(watch, 400) == [
            *(Change(number, False, b'[[5,"log",{"a":":"}]]') for number in range(1, 400)),
            Change(400, True, b"[]"),
        ]
        assert taken(waiter, 1) == [Change(400, True, b"[]")]


def test_a_thousand_watches_share_one_connection_and_leave_nothing(
    redis_client: redis.Redis,
) -> None:
    changes, ended = Changes(redis_client.connection_pool), threading.Event()
    woken = list[int]()
    ids = [f"exec_{number % 50}" for number in range(1000)]

    def waits(id: str) -> None:
        with changes.watching(id, final_only=True) as watch:
            while not ended.is_set():
                woken.append(len(watch.wait(SOON)))

    threads = [threading.Thread(target=waits, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    until(lambda: redis_client.pubsub_channels(CHANNEL + b"*").__len__() == 50)
    until(lambda: len(woken) >= 1000)  # all were told to read
    for id in set(ids):
        publish(redis_client, id, b"2:0:[]")
    time.sleep(0.2)
    assert sum(woken) == 0
    ended.set()
    for id in set(ids):
        assert publish(redis_client, id, b"3:1:[]") == 1  # one subscription for all
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    assert sum(woken) == 1000
    assert not changes._channels
    until(lambda: not redis_client.pubsub_channels(CHANNEL + b"*"))


def test_one_who_comes_later_must_read_first(redis_client: redis.Redis) -> None:
    changes = Changes(redis_client.connection_pool)
    with changes.watching("exec_1") as first:
        subscribed(first)
        with changes.watching("exec_1") as second:
            assert second.wait(0) == []
            assert second.must_read
            assert second.wait(0) == []
            assert not second.must_read
        publish(redis_client, "exec_1", b"1:0:[]")
        assert taken(first, 1) == [Change(1, False, b"[]")]


def test_a_watch_that_is_not_read_keeps_little_and_says_that_something_is_missing(
    redis_client: redis.Redis,
) -> None:
    changes = Changes(redis_client.connection_pool)
    with changes.watching("exec_1") as slow, changes.watching("exec_1") as quick:
        subscribed(slow)
        subscribed(quick)
        piece = b'["' + b"x" * (MOST_BYTES // 4) + b'"]'
        for number in range(1, 101):
            publish(redis_client, "exec_1", b"%d:0:" % number + piece)
            assert [change.first for change in taken(quick, 1)] == [number]
        assert sum(len(change.entries) for change in slow._changes) <= MOST_BYTES
        slow.wait(0)
        assert slow.must_read


def test_a_change_that_is_larger_than_the_bound_arrives(redis_client: redis.Redis) -> None:
    changes = Changes(redis_client.connection_pool)
    with changes.watching("exec_1") as watch:
        subscribed(watch)
        large = b'["' + b"x" * (2 * MOST_BYTES) + b'"]'
        publish(redis_client, "exec_1", b"1:0:" + large)
        assert taken(watch, 1) == [Change(1, False, large)]


def test_a_wait_ends_when_it_is_woken(redis_client: redis.Redis) -> None:
    changes = Changes(redis_client.connection_pool)
    with changes.watching("exec_1") as watch:
        subscribed(watch)
        threading.Timer(0.1, watch.wake).start()
        began = time.monotonic()
        assert watch.wait(14) == []
        assert not watch.must_read
        assert time.monotonic() - began < 13


def test_a_message_of_another_form_makes_watches_read(redis_client: redis.Redis) -> None:
    changes = Changes(redis_client.connection_pool)
    with changes.watching("exec_1") as watch:
        for odd in (b"", b"completed", b"x:1:[]", b"1:2:[]", b"9" * 400 + b":1:[]", b"\xff:0:"):
            subscribed(watch)
            assert publish(redis_client, "exec_1", odd) == 1
        subscribed(watch)


def test_a_subscription_that_breaks_is_made_again_and_says_so(redis_client: redis.Redis) -> None:
    changes = Changes(redis_client.connection_pool)
    with changes.watching("exec_1") as watch:
        subscribed(watch)
        for number in range(1, 4):
            redis_client.client_kill_filter(_type="pubsub")
            subscribed(watch)
            publish(redis_client, "exec_1", b"%d:0:[]" % number)
            assert [change.first for change in taken(watch, 1)] == [number]


def test_a_watch_that_begins_while_the_store_is_away_is_subscribed_later(
    redis_client: redis.Redis,
) -> None:
    changes = Changes(redis_client.connection_pool)
    with changes.watching("exec_1") as early:
        subscribed(early)
        address = dict(changes._pool.connection_kwargs)
        nowhere = {"path": "/nowhere"} if "path" in address else {"port": 1}
        changes._pool.connection_kwargs.update(nowhere)
        redis_client.connection_pool.reset()
        changes._connection.disconnect()
        with changes.watching("exec_2") as late:
            assert late.wait(0.5) == []
            assert not late.must_read
            changes._pool.connection_kwargs.clear()
            changes._pool.connection_kwargs.update(address)
            subscribed(late)
            subscribed(early)
