"""A worker hears of those who follow an execution before it knows that it has claimed it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

from app.settings import Settings
from app.telemetry.tracing import connect
from app.worker.worker import MAX_HEARD, ExecutionWorker


def worker() -> ExecutionWorker:
    registration = SimpleNamespace(name="w", add_heartbeat=lambda pipeline: None)
    pool = SimpleNamespace(acquire=lambda attempt: None)
    settings = Settings()
    return ExecutionWorker(
        cast(Any, registration), "threads", settings, cast(Any, pool), connect(settings)
    )


def row(id: str) -> list[bytes]:
    """A claimed execution, as the store's script returns it."""
    fields = [id, f"{id}:1:1", "1", "0", "60", "[0]", "default", "", "{}", "", "", "", "", "0", ""]
    return [field.encode() for field in fields]


def listen(id: Any) -> bytes:
    return json.dumps({"command": "listen", "execution_id": id}).encode()


async def listened(*commands: bytes) -> bool:
    """Whether an attempt at `exec_1` that begins after these commands knows of a listener."""
    heard = worker()
    for command in commands:
        heard._obey(command)
    heard._begin(row("exec_1"))
    [attempt] = heard._attempts.values()
    for task in heard._tasks:
        task.cancel()
    await asyncio.gather(*heard._tasks, return_exceptions=True)
    return attempt.listened


def test_a_command_that_comes_before_the_claim_is_not_lost() -> None:
    assert asyncio.run(listened(listen("exec_1")))
    assert asyncio.run(listened(listen("exec_1"), listen("exec_2")))


def test_what_concerns_another_execution_or_nothing_at_all_is_ignored() -> None:
    nonsense = [b"", b"[]", b"{}", b'{"command": "listen"}', listen(None), listen({"a": [1]})]
    cancel = json.dumps({"command": "cancel", "execution_id": "exec_1"}).encode()
    assert not asyncio.run(listened(listen("exec_2"), cancel, *nonsense))


def test_only_the_latest_commands_are_remembered() -> None:
    others = [listen(f"exec_other_{number}") for number in range(MAX_HEARD)]
    assert not asyncio.run(listened(listen("exec_1"), *others))
