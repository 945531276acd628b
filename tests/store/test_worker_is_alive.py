"""Which heartbeats prove that a worker of this machine lives: `app.store.store_check`."""

from __future__ import annotations

import socket

import pytest
import redis

from app.store.store_check import worker_is_alive

HERE = socket.gethostname()


def add_worker(client: redis.Redis, host: str, silent_seconds: float, rq_time: str) -> None:
    """Adds a worker whose last heartbeat was so long ago by the store's clock."""
    now, _ = client.time()
    client.zadd("exec:workers", {"threads:w1": (now - silent_seconds) * 1_000_000})
    client.hset("rq:worker:w1", mapping={"hostname": host, "last_heartbeat": rq_time})


@pytest.mark.parametrize(
    ("host", "silent_seconds", "rq_time", "alive"),
    [
        (HERE, 1, "2001-01-01T00:00:00.000000Z", True),
        (HERE, 60, "2099-01-01T00:00:00.000000Z", False),
        ("elsewhere", 1, "2099-01-01T00:00:00.000000Z", False),
    ],
)
def test_a_heartbeat_counts_by_the_stores_clock_whatever_the_machines_clock_says(
    redis_client: redis.Redis, host: str, silent_seconds: float, rq_time: str, alive: bool
) -> None:
    add_worker(redis_client, host, silent_seconds, rq_time)
    assert worker_is_alive(redis_client, 36) is alive


@pytest.mark.parametrize("runs_here", [True, False])
def test_without_a_host_name_a_worker_counts_if_one_runs_here(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, runs_here: bool
) -> None:
    add_worker(redis_client, HERE, 1, "")
    redis_client.delete("rq:worker:w1")
    redis_client.set("rq:worker:w1", "another program's")
    monkeypatch.setattr("app.store.store_check._worker_runs_here", lambda: runs_here)
    assert worker_is_alive(redis_client, 36) is runs_here
