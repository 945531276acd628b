"""Measures how many webhooks one worker delivers to a receiver that answers at once.

`bench.__main__` runs `deliveries`. The receiver is a process of its own.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import redis

from app.domain.execution import Callback, NewExecution, TargetType
from app.domain.identifiers import new_id
from app.settings import Settings
from app.store import scripts
from app.store.executions import submit_arguments
from app.store.functions import Functions, command
from bench.figures.scale import Scale
from bench.stack import cpu_seconds, free_port, stack
from bench.submit import wait_until
from bench.table import Row, at_least

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3GxSr5XyzTs="
OUTPUTS = b'{"output":"This text stands for a short answer of a model."}'
PER_ROUND_TRIP = 60


def deliveries(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures a full queue of deliveries, from the first fifth to the fourth."""
    found = [_drained(folder, scale.pick(4000, 20_000)) for _ in range(scale.pick(2, 5))]
    yield Row(
        "webhooks to a receiver that answers at once, one worker",
        [rate for rate, _ in found],
        "{:.0f} /s",
        goal=at_least(500),
    )
    yield Row("... CPU time of the worker for one", [cost for _, cost in found], "{:.2f} ms")


def _drained(folder: Path, count: int) -> tuple[float, float]:
    """Deliveries per second, and milliseconds of the worker's CPU time for one."""
    port = free_port()
    with stack(folder, WEBHOOK_SECRET=SECRET, WEBHOOK_ALLOW_PRIVATE=1) as running:
        running.run(sys.executable, "-m", "tests.support.receiver", str(port))
        _wait_for(port)
        fill(running.client, count, f"http://127.0.0.1:{port}/hook")
        running.web()  # it runs the reaper, which brings back what found no place at its host
        worker = running.worker("--threads", "0", "--processes", "0")
        delivered = lambda: int(running.client.zcard("rq:finished:webhooks"))  # noqa: E731
        began = wait_until(delivered, count // 5)
        first, spent = delivered(), cpu_seconds([worker])
        ended = wait_until(delivered, count * 4 // 5)
        last, spent = delivered(), cpu_seconds([worker]) - spent
    return (last - first) / (ended - began), spent * 1000 / (last - first)


def fill(client: redis.Redis, count: int, url: str) -> None:
    """Stores `count` executions that have completed and have a webhook to be sent."""
    library, settings = scripts.library(), Settings(max_queue_length=0)
    functions = Functions(client)
    functions.load()
    functions("fence", ["w", 0])
    for claim, start in enumerate(range(0, count, PER_ROUND_TRIP), 1):
        with client.pipeline(transaction=False) as pipe:
            for _ in range(min(PER_ROUND_TRIP, count - start)):
                new = _new_execution(url)
                pipe.execute_command(*command(library, "submit", submit_arguments(new, settings)))
            pipe.execute()
        rows = functions("claim", ["threads", "w", PER_ROUND_TRIP, 600_000_000, claim])
        with client.pipeline(transaction=False) as pipe:
            for id, token, *_ in rows:
                end = [id, token, "", "", "completed", OUTPUTS, ""]
                pipe.execute_command(*command(library, "finish", end))
            pipe.execute()


def _new_execution(url: str) -> NewExecution:
    return NewExecution(
        id=new_id(),
        tenant="default",
        type=TargetType.AGENT,
        target_id="in_thread",
        inputs={"text": "A question."},
        config={},
        queue="threads",
        total_steps=1,
        timeout_seconds=600,
        max_attempts=3,
        callback=Callback(url),
    )


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("The receiver does not start.")
