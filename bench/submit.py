"""Stores and queues many executions without a web process, and waits until they have ended.

Figures use it to fill a queue or the lists.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import redis

from app.domain.execution import NewExecution, TargetType
from app.domain.identifiers import new_id
from app.settings import Settings
from app.store import scripts
from app.store.executions import QUEUES, submit_arguments
from app.store.functions import Functions, command

PER_ROUND_TRIP = 1000  # a pipeline of a million calls would need all memory


def fill(
    client: redis.Redis,
    count: int,
    target: str = "in_process",
    isolation: str = "process",
    type: TargetType = TargetType.AGENT,
    total_steps: int = 1,
    **inputs: Any,
) -> list[str]:
    """Stores and queues `count` executions, each as a start request does. Returns their ids."""
    library, ids = scripts.library(), [new_id() for _ in range(count)]
    Functions(client).load()
    unlimited = Settings(max_queue_length=0)  # some figures store a million
    with client.pipeline(transaction=False) as pipe:
        for number, id in enumerate(ids):
            new = NewExecution(
                id=id,
                tenant="default",
                type=type,
                target_id=target,
                inputs=inputs,
                config={},
                queue=QUEUES[isolation],
                total_steps=total_steps,
                timeout_seconds=600,
                max_attempts=3,
            )
            pipe.execute_command(*command(library, "submit", submit_arguments(new, unlimited)))
            if number % PER_ROUND_TRIP == PER_ROUND_TRIP - 1:
                pipe.execute()
        pipe.execute()
    return ids


def fill_feed(client: redis.Redis) -> None:
    """Fills the feed of the tenant. Its length is limited, so it does not grow with executions."""
    change = json.dumps([3, new_id(), "completed", "agent", "in_thread", None])
    with client.pipeline(transaction=False) as pipe:
        for _ in range(11_000):
            pipe.xadd("exec:changes:default", {"e": change}, maxlen=10_000)
        pipe.execute()


def completed(client: redis.Redis) -> int:
    return sum(int(client.zcard(f"rq:finished:{queue}")) for queue in QUEUES.values())


def wait_until(
    count: Callable[[], int], wanted: int, seconds: float = 120, pause_seconds: float = 0.002
) -> float:
    """Waits until `count()` reaches `wanted`. Returns the time then, on `perf_counter`.

    Raises `TimeoutError` after `seconds`.
    """
    deadline = time.perf_counter() + seconds
    while count() < wanted:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"Only {count()} of {wanted} after {seconds} s.")
        time.sleep(pause_seconds)
    return time.perf_counter()
