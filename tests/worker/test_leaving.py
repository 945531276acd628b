"""A worker that stops in order is gone from the store at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import redis

from app.settings import Settings
from app.store.attempt_store import AttemptStore
from app.worker.heartbeat import Heartbeat
from app.worker.outage import OutageLog
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore


class LateStore(AttemptStore):
    """Its beats reach the store late, even if their caller gives up: they are on the network."""

    def __init__(self, settings: Settings):
        super().__init__(settings, "threads", "w1")
        self.sent = asyncio.Event()

    async def beat(self, *arguments: Any) -> list[str]:
        self.sent.set()
        return await asyncio.shield(asyncio.ensure_future(self._late(*arguments)))

    async def _late(self, *arguments: Any) -> list[str]:
        await asyncio.sleep(0.2)
        return await super().beat(*arguments)


def test_a_beat_on_its_way_does_not_list_a_worker_again_that_has_left(
    own_store: EmbeddedStore,
) -> None:
    settings = Settings(redis_url=own_store.url)

    async def leave_during_a_beat() -> None:
        store = LateStore(settings)
        pool: Any = SimpleNamespace(changed=asyncio.Event(), slots=0, resume=lambda: None)
        beats = Heartbeat({}, pool, store, OutageLog(), 12.0, lambda _: None)
        loop = asyncio.ensure_future(beats.beat_loop())
        await store.sent.wait()
        loop.cancel()
        await asyncio.wait([loop])
        await beats.end()
        await store.leave()
        await asyncio.sleep(0.4)
        await store.close()

    asyncio.run(leave_during_a_beat())
    with redis.Redis.from_url(own_store.url) as client:
        assert not client.exists("exec:workers", "exec:slots")


def test_no_worker_is_listed_after_an_orderly_stop(make_service: Callable[..., Service]) -> None:
    service = make_service(SHUTDOWN_GRACE=1)
    service.until(service.start("behaves", {"do": "listen", "seconds": 600}), "running")
    [worker] = service.workers
    worker.terminate()
    assert worker.wait(60) == 0
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        assert client.zrange("exec:workers", 0, -1) == []
