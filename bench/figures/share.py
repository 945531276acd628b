"""Measures what a small execution costs the store: CPU time of its three calls, and memory.

`bench.__main__` runs `store_share`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from app.domain.execution import NewExecution, TargetType
from app.domain.identifiers import new_id
from app.domain.payload import pack
from app.settings import Settings
from app.store.executions import submit_arguments
from app.store.functions import Functions, command
from app.store.scripts import library
from bench.figures.scale import Scale
from bench.figures.web import TEXT
from bench.stack import Stack, stack
from bench.submit import fill_feed
from bench.table import Row, at_most

AT_ONCE = 64
"""Calls in one round trip, and executions in one claim, as under load."""

LEASE_MICROSECONDS = 600_000_000
Call = tuple[str, Sequence[Any]]


def store_share(folder: Path, scale: Scale) -> Iterator[Row]:
    """Calls the store's functions without web process or worker.

    The CPU time is that of the store's main thread.
    """
    rounds = [_round(folder, scale.pick(3000, 20_000)) for _ in range(scale.rounds)]
    for place, name in enumerate(("submit", "claim", "finish")):
        yield Row(f"store, CPU for each {name}", [took[place] for took in rounds], "{:.0f} us")
    sums = [sum(took[:3]) for took in rounds]
    yield Row("store, CPU for each small execution", sums, "{:.0f} us", goal=at_most(90))
    yield Row(
        "store, bytes of each then", [took[3] for took in rounds], "{:.0f}", goal=at_most(1600)
    )


def _round(folder: Path, count: int) -> tuple[float, float, float, float]:
    with stack(folder) as running:
        worker = secrets.token_hex(6)
        running.client.hset(f"rq:worker:{worker}", "last_heartbeat", "now")
        functions = Functions(running.client)
        functions("fence", [worker, 0])
        # Warms everything up, and lets the lists outgrow the compact form of short ones.
        _life(running, functions, worker, 200, 0)
        fill_feed(running.client)
        before = running.used_memory()
        took = _life(running, functions, worker, count, 1_000)
        return (*took, (running.used_memory() - before) / count)


def _life(
    running: Stack, functions: Functions, worker: str, count: int, number: int
) -> tuple[float, float, float]:
    """Submits, claims and finishes `count` executions.

    Returns the microseconds of one submit, of one claim and of one finish.
    """
    settings, outputs = Settings(), pack(json.dumps({"output": TEXT}).encode())
    _, submit_us = _timed(
        running, [("submit", submit_arguments(_new(), settings)) for _ in range(count)]
    )
    functions("fence", [worker, number])
    claimed: list[Any] = []
    claim_us = 0.0
    while len(claimed) < count:
        number += 1
        [rows], took_us = _timed(
            running, [("claim", ["threads", worker, AT_ONCE, LEASE_MICROSECONDS, number])]
        )
        claimed, claim_us = claimed + rows, claim_us + took_us
    ends: list[Call] = [
        ("finish", [row[0], row[1], "", "", "completed", outputs, ""]) for row in claimed
    ]
    _, finish_us = _timed(running, ends)
    return submit_us / count, claim_us / count, finish_us / count


def _timed(running: Stack, calls: Sequence[Call]) -> tuple[list[Any], float]:
    """Returns the answers, and the CPU time of the store's main thread in microseconds."""
    functions, answers = library(), []
    began = _on_processor(running)
    for start in range(0, len(calls), AT_ONCE):
        with running.client.pipeline(transaction=False) as pipe:
            for name, arguments in calls[start : start + AT_ONCE]:
                pipe.execute_command(*command(functions, name, arguments))  # type: ignore[no-untyped-call]  # redis's
            answers += pipe.execute()
    return answers, _on_processor(running) - began


def _on_processor(running: Stack) -> float:
    pid = running.store.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1000


def _new() -> NewExecution:
    return NewExecution(
        id=new_id(),
        tenant="default",
        type=TargetType.AGENT,
        target_id="in_thread",
        inputs={"text": TEXT},
        config={},
        queue="threads",
        total_steps=1,
        timeout_seconds=600,
        max_attempts=3,
        request_id=secrets.token_hex(16),
        flow="default",
        definition_hash=secrets.token_hex(8),
    )
