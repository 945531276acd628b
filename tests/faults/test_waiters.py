"""A thousand callers wait for executions while web processes are replaced and killed."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil

from app.process import file_limit
from tests.faults.test_reload import all_ready, web_pids
from tests.support.pace import until
from tests.support.service import Service

Make = Callable[..., Service]
WAITERS, EXECUTIONS = 1000, 100
WHOLE_SECONDS = 200


class Waiters:
    """Callers that wait, and ask again after each answer that is not final, and after each
    connection that was closed.
    """

    def __init__(self, service: Service, ids: list[str]):
        self._port, self._ids = service.port, ids
        self.open = 0
        self.seen: Counter[str] = Counter()
        self.heard: list[str] = []

    async def run(self) -> None:
        waiters = (self._wait(self._ids[number % len(self._ids)]) for number in range(WAITERS))
        await asyncio.gather(*waiters)

    async def _wait(self, id: str) -> None:
        while True:
            try:
                body = await self._ask(id)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.seen[type(error).__name__] += 1
                await asyncio.sleep(random.random() / 10)
                continue
            self.seen[str(body["status"])] += 1
            if body["status"] == "completed":
                self.heard.append(body["execution_id"])
                return

    async def _ask(self, id: str) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            self.open += 1
            path = f"/api/v1/executions/{id}?wait=60"
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")), head
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            body = await reader.readexactly(int(fields[b"Content-Length"]))
            return dict(json.loads(body))
        finally:
            self.open -= 1
            writer.close()


def test_a_thousand_waiters_all_hear_the_end_though_their_web_processes_are_replaced(
    make_service: Make,
) -> None:
    file_limit.raise_to(WAITERS + 200)
    service = make_service(workers=0, WEB_CONCURRENCY=2, WORKER_THREADS=50)
    first = all_ready(service)
    inputs = {"seconds": 0}
    ids = [service.start("behaves", inputs, config={"flow_id": "async"}) for _ in range(EXECUTIONS)]
    waiters = Waiters(service, ids)

    def break_things() -> None:
        until(lambda: waiters.open == WAITERS)
        assert service.web is not None
        service.web.send_signal(signal.SIGHUP)
        until(lambda: not web_pids(service) & first, 120)
        until(lambda: waiters.open == WAITERS)
        victim = min(all_ready(service, 4))
        psutil.Process(victim).kill()
        until(lambda: len(web_pids(service) - {victim}) == 2)
        service.web.send_signal(signal.SIGHUP)
        service.start_worker()

    async def both() -> None:
        breaking = asyncio.create_task(asyncio.to_thread(break_things))
        await asyncio.wait_for(waiters.run(), WHOLE_SECONDS)
        await breaking

    asyncio.run(both())
    assert Counter(waiters.heard) == Counter(ids * (WAITERS // EXECUTIONS))
    # Whoever waited when its process was asked to stop got an answer; only the kill gave none.
    assert waiters.seen["pending"] >= WAITERS
    assert sum(waiters.seen[name] for name in waiters.seen if name.endswith("Error")) <= WAITERS
    assert waiters.seen["503"] <= WAITERS / 10  # so many at once may be too many for a busy machine
    assert '"request_crashed"' not in service.output("web")
