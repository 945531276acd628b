"""`app.store.together`: calls of many threads share two connections, and each caller gets its own
answer or its own error.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from app.domain.errors import StoreUnavailable
from app.settings import Settings
from app.store import connection
from app.store.together import CONNECTIONS, Function, Together, checked
from tests.support.pace import within
from tests.support.proxy import Proxy
from tools.embedded_store import EmbeddedStore

CALLERS = 50


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Makes all calls at once. Returns what each of them returns or raises."""
    ready = threading.Barrier(len(calls))

    def call(one: Callable[[], Any]) -> Any:
        ready.wait()
        try:
            return one()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


@pytest.fixture
def together(redis_client: redis.Redis) -> Together:
    return Together(redis_client.connection_pool)


@pytest.fixture
def proxy(own_store: EmbeddedStore) -> Iterator[Proxy]:
    with Proxy(own_store.url.removeprefix("unix://")) as running:
        yield running


def test_every_caller_gets_its_own_answers_in_their_order(together: Together) -> None:
    def echo(number: int) -> Callable[[], Any]:
        return lambda: together.execute(("ECHO", f"a{number}"), ("ECHO", f"b{number}"))

    for _ in range(5):
        answers = at_once([echo(number) for number in range(CALLERS)])
        assert answers == [
            [f"a{number}".encode(), f"b{number}".encode()] for number in range(CALLERS)
        ]


def test_an_error_goes_to_its_own_caller_alone(
    together: Together, redis_client: redis.Redis
) -> None:
    redis_client.set("text", "x")
    wrong = [lambda: checked(*together.execute(("LPUSH", "text", "y")))] * 10
    right = [lambda: checked(*together.execute(("GET", "text")))] * 40
    answers = at_once([*wrong, *right])
    assert all(
        isinstance(answer, redis.ResponseError) and "WRONGTYPE" in str(answer)
        for answer in answers[:10]
    )
    assert answers[10:] == [b"x"] * 40


def test_functions_that_the_store_lost_are_loaded_again_for_all_who_call_them(
    together: Together, redis_client: redis.Redis
) -> None:
    cancel, page = Function(together, "cancel"), Function(together, "page")
    calls: list[Callable[[], Any]] = [
        lambda: cancel(["exec_1", "default"]),
        lambda: page([0, 1, "asc", 1, "none"]),
    ]
    for _ in range(3):
        redis_client.function_flush()
        assert at_once(calls * 10) == [None, [0, []]] * 10


def test_what_gathers_is_sent_over_two_connections_with_fewer_turns_than_calls(
    proxy: Proxy,
) -> None:
    client = redis.Redis.from_url(proxy.url)
    together = Together(client.connection_pool)
    together.execute(("PING",))
    before = proxy.round_trips
    assert at_once([lambda: together.execute(("PING",))] * CALLERS) == [[b"PONG"]] * CALLERS
    assert proxy.round_trips - before < CALLERS
    assert len(client.client_list(_type="normal")) <= CONNECTIONS + 1
    client.close()


def test_a_caller_that_is_alone_is_one_turn(proxy: Proxy) -> None:
    client = redis.Redis.from_url(proxy.url)
    together = Together(client.connection_pool)
    together.execute(("PING",))
    before = proxy.round_trips
    together.execute(("PING",), ("ECHO", "x"), ("TIME",))
    assert proxy.round_trips - before == 1


def test_a_connection_that_the_store_closed_goes_unnoticed(
    together: Together, redis_client: redis.Redis
) -> None:
    for _ in range(3):
        assert at_once([lambda: together.execute(("PING",))] * CALLERS) == [[b"PONG"]] * CALLERS
        redis_client.client_kill_filter(_type="normal", skipme=True)


def test_a_store_that_hangs_fails_every_call_in_time_and_serves_them_afterwards(
    own_store: EmbeddedStore,
) -> None:
    client = connection.connect(Settings(redis_url=own_store.url))
    together = Together(client.connection_pool)
    together.execute(("PING",))
    own_store.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        answers = at_once([lambda: together.execute(("PING",))] * 200)
        took = time.monotonic() - began
    finally:
        own_store.send_signal(signal.SIGCONT)
    assert all(
        isinstance(answer, (redis.TimeoutError, redis.ConnectionError)) for answer in answers
    )
    assert took < within(2.0)
    assert together.execute(("PING",)) == [b"PONG"]
    os.kill(own_store.pid, 0)
    client.close()


def test_calls_that_waited_too_long_to_be_sent_fail_alone_and_say_nothing_of_the_store(
    together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = connection.Breaker()

    def ask() -> Any:
        with breaker.calling():
            return together.execute(("ECHO", "a"))

    with monkeypatch.context() as patched:
        patched.setattr("app.store.together.WAIT_SECONDS", 0.1)  # as if it had waited before
        with pytest.raises(StoreUnavailable, match="Too many requests"):
            ask()
    assert ask() == [b"a"]
