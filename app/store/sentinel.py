"""Connects to a store whose address is known by Redis Sentinels; `app.store.connection` calls it.

`REDIS_URL` is then `sentinel://[user:password@]host[:port][,host[:port]...]/service[?db=N]`.
redis-py asks the Sentinels at every new connection, so a client finds a new primary with its next
connection. User and password are the store's. The Sentinels get neither, and no TLS.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

SCHEME = "sentinel"
_PORT = 26379
_SENTINEL: Any = redis.sentinel.Sentinel  # redis-py has no types here
_ASYNC_SENTINEL: Any = redis.asyncio.sentinel.Sentinel


def connect(url: str, **options: Any) -> redis.Redis:
    """A client of the current primary. It connects with its first call."""
    hosts, service, named = _parts(url)
    sentinels: Any = _SENTINEL(hosts, sentinel_kwargs={**_TIMEOUTS, "retry": Retry(NoBackoff(), 0)})
    client: redis.Redis = sentinels.master_for(service, redis.Redis, **named, **options)
    return client


def connect_async(url: str, **options: Any) -> redis.asyncio.Redis:
    """Like `connect`, for an event loop."""
    hosts, service, named = _parts(url)
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    sentinels: Any = _ASYNC_SENTINEL(hosts, sentinel_kwargs={**_TIMEOUTS, "retry": retry})
    client: redis.asyncio.Redis = sentinels.master_for(
        service, redis.asyncio.Redis, **named, **options
    )
    return client


_TIMEOUTS = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2}
"""Short, because a request may wait for all Sentinels, one after the other, and then the store."""


def _parts(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    split = urlsplit(url)
    user, _, hosts = split.netloc.rpartition("@")
    username, _, password = user.partition(":")
    named: dict[str, Any] = {"db": int(parse_qs(split.query).get("db", ["0"])[0])}
    named |= {"username": unquote(username)} if username else {}
    named |= {"password": unquote(password)} if password else {}
    pairs = [
        address.rpartition(":") if ":" in address else (address, ":", str(_PORT))
        for address in hosts.split(",")
    ]
    return [(host, int(port)) for host, _, port in pairs], split.path.strip("/"), named
