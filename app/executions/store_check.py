"""Is this store fit to keep executions? Asked before a release and by health checks, never for a request."""

from __future__ import annotations

import socket
import time
from typing import Any

import redis
from rq.utils import as_text, utcparse

from app.executions.connection import translated

OLDEST_VERSION = (6, 2)


def wrong_with(client: redis.Redis) -> str | None:
    """What must be changed before executions are safe in this store, in one sentence. Raises `StoreUnavailable`."""
    with translated():
        info: dict[str, Any] = client.info()
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < OLDEST_VERSION:
        return f"The store is version {info['redis_version']}; Redis 6.2 or Valkey 7.2 is the oldest that works."
    if info["role"] != "master":
        return "The store is a replica, which takes no writes: set REDIS_URL to its primary."
    if info["maxmemory_policy"] != "noeviction":
        return (
            f"The store throws data away when it is full ({info['maxmemory_policy']}): set maxmemory-policy noeviction."
        )
    return None


def doubtful_about(client: redis.Redis) -> str | None:
    """What may be as it is, but should be known."""
    with translated():
        info: dict[str, Any] = client.info("persistence")
        if info["aof_enabled"]:
            return None
    return "The store keeps no log on disk: what it accepted may be lost with its process. Set appendonly yes."


def worker_beats(client: redis.Redis, silent_seconds: float) -> bool:
    """Whether a worker of this machine has said within so many seconds, by this machine's clock, that it lives."""
    with translated():
        for name in client.smembers("rq:workers"):
            host, beat = client.hmget(name, "hostname", "last_heartbeat")
            if host and beat and as_text(host) == socket.gethostname():
                silence_seconds = time.time() - utcparse(as_text(beat)).timestamp()
                if silence_seconds < silent_seconds:
                    return True
    return False
