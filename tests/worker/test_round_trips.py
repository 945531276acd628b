"""Counts the round trips to the store. A proxy counts them: a pipeline is one, and so is a script.

Leases are long, so that no heartbeat and no reap is counted.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.proxy import Proxy
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

BOTH = pytest.mark.parametrize("flow", ["process", "thread"])

Counted = Callable[[Callable[[], object]], int]


@pytest.fixture
def proxy(own_store: EmbeddedStore) -> Iterator[Proxy]:
    with Proxy(own_store.url.removeprefix("unix://")) as running:
        yield running


@pytest.fixture
def asking(make_service: Callable[..., Service], proxy: Proxy) -> Service:
    """A service that has its connections open and its scripts loaded."""
    service = make_service(proxy.url, LEASE=600)
    for flow in ("process", "thread"):
        for _ in range(3):
            service.run("behaves", config={"flow_id": flow})
    service.get("/executions")
    return service


@pytest.fixture
def trips(proxy: Proxy) -> Counted:
    """The round trips of an action, until the worker has come to rest after it."""

    def count(act: Callable[[], object]) -> int:
        time.sleep(0.3)
        before = proxy.round_trips
        act()
        time.sleep(0.3)
        return proxy.round_trips - before

    return count


def completed(client: redis.Redis) -> int:
    return sum(int(client.zcard(f"rq:finished:{queue}")) for queue in ("processes", "threads"))


@BOTH
def test_a_small_execution_is_few_round_trips_from_its_start_to_its_end(
    asking: Service, trips: Counted, own_store: EmbeddedStore, flow: str
) -> None:
    """Submit, claim, finish; then the worker looks for more and waits again, on two queues at most."""
    with redis.Redis.from_url(own_store.url) as client:
        client.config_resetstat()
        taken = trips(
            lambda: asking.start("behaves", {"text": "x" * 280}, config={"flow_id": flow})
        )
        calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
        assert completed(client) == 7
    assert taken <= 8, calls
    # What stands beside them in the statistics was called inside these four scripts.
    assert calls["cmdstat_fcall"] <= 4
    assert "cmdstat_eval" not in calls
    assert calls["cmdstat_blmove"] <= 3


@BOTH
def test_a_hundred_small_executions_share_their_round_trips(
    asking: Service, own_store: EmbeddedStore, proxy: Proxy, flow: str
) -> None:
    """Those that wait are claimed together, and what ended meanwhile is written together."""
    asking.workers[0].send_signal(signal.SIGSTOP)
    for _ in range(100):
        asking.start("behaves", config={"flow_id": flow})
    before = proxy.round_trips
    with redis.Redis.from_url(own_store.url) as client:
        asking.workers[0].send_signal(signal.SIGCONT)
        while completed(client) < 106:
            time.sleep(0.01)
    assert proxy.round_trips - before <= (100 * 2.5 if flow == "process" else 100)


def test_a_status_is_one_round_trip(asking: Service, trips: Counted) -> None:
    small = asking.run("behaves", {"text": "x"})["execution_id"]
    large = asking.run("behaves", {"do": "large", "bytes": 100_000})["execution_id"]
    for id in (small, large):
        assert trips(lambda id=id: asking.status(id)) == 1  # type: ignore[misc]


def test_a_page_is_one_round_trip_with_any_filter(asking: Service, trips: Counted) -> None:
    for query in (
        "",
        "?status=completed",
        "?type=agent&page_size=5",
        "?target_id=behaves&page=2&page_size=2",
    ):
        assert trips(lambda query=query: asking.get(f"/executions{query}")) == 1  # type: ignore[misc]
