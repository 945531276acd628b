"""Measures the workers: a full queue, one execution on an idle service, a chain of steps.

`bench.__main__` runs `drain`, `latency` and `chains`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rq import Queue

from app.domain.execution import TargetType
from app.store.job_reader import read_time
from bench.agents import CHAIN_STEPS
from bench.baseline import plain_rq_task
from bench.figures.scale import Scale
from bench.figures.web import OURS, TEXT, p99
from bench.load import connect, exchange_json, post
from bench.stack import CELERY, Stack, stack
from bench.submit import completed, fill, wait_until
from bench.table import Row, at_most, ratio_at_least, ratio_at_most

INPUTS = {"text": TEXT}
CHAIN_RUNS = 5
PLAIN_CHAIN_STEPS = 10


def drain(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures how many executions per second workers finish from a full queue.

    Only the time from the first fifth to the fourth counts, without the start of the workers.
    """
    contenders: dict[str, Callable[[Path], float]] = {
        "plain RQ": lambda folder: drain_plain(folder, scale.pick(150, 600)),
        "Celery": lambda folder: drain_celery(folder, scale.pick(1000, 6000)),
        "threads": lambda folder: drain_ours(
            folder, "thread", scale.pick(6000, 30_000), [["--processes", "0"]] * 2
        ),
        "processes": lambda folder: drain_ours(
            folder, "process", scale.pick(2000, 10_000), [["--threads", "0", "--processes", "2"]]
        ),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(scale.pick(2, 5)):
        for name, measure in contenders.items():
            found[name].append(measure(folder))
    plain, celery = found["plain RQ"], found["Celery"]
    yield Row("drain, plain RQ, 2 workers", plain, "{:.0f} /s")
    yield Row("drain, Celery, 2 prefork processes", celery, "{:.0f} /s", "plain RQ", plain)
    threads = found["threads"]
    yield Row(
        "drain, threads, 2 worker processes",
        threads,
        "{:.0f} /s",
        "plain RQ",
        plain,
        ratio_at_least(90),
    )
    yield Row("... the same", threads, "{:.0f} /s", "Celery", celery)
    yield Row(
        "drain, 2 warm processes",
        found["processes"],
        "{:.0f} /s",
        "plain RQ",
        plain,
        ratio_at_least(10),
    )
    yield Row("... the same", found["processes"], "{:.0f} /s", "Celery", celery)


def drain_ours(folder: Path, isolation: str, count: int, workers: list[list[str]]) -> float:
    with stack(folder) as running:
        fill(running.client, count, f"in_{isolation}", isolation, **INPUTS)
        for options in workers:
            running.worker(*options)  # after the queue is full, so that no start is measured
        return _rate(lambda: completed(running.client), count)


def drain_plain(folder: Path, count: int) -> float:
    with stack(folder) as running:
        queue = Queue("bench", connection=running.client)
        queue.enqueue_many(
            [Queue.prepare_data(plain_rq_task.task, args=(INPUTS,)) for _ in range(count)]
        )
        for _ in range(2):
            running.rq_worker()
        return _rate(lambda: int(running.client.zcard("rq:finished:bench")), count)


def drain_celery(folder: Path, count: int) -> float:
    with stack(folder) as running:
        submit_celery(running, count, INPUTS)
        running.celery_worker(2)
        with running.results() as results:
            return _rate(lambda: int(results.dbsize()), count)


def submit_celery(running: Stack, count: int, inputs: dict[str, Any]) -> None:
    command = [
        str(CELERY / "python"),
        "-m",
        "bench.baseline.celery_app",
        str(count),
        json.dumps(inputs),
    ]
    subprocess.run(command, env=running.env, check=True)


def _rate(count: Callable[[], int], total: int) -> float:
    first, last = total // 5, total * 4 // 5
    began = wait_until(count, first)
    counted = count()
    ended = wait_until(count, last)
    return (count() - counted) / (ended - began)


def latency(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures the time from a start request to `completed` in the store, on an idle service."""
    contenders = {
        "plain": ("bench.baseline.plain_rq:app", "/executions", ""),
        "process": ("wsgi:app", OURS, "in_process"),
        "thread": ("wsgi:app", OURS, "in_thread"),
    }
    took: dict[str, list[list[float]]] = {name: [] for name in contenders}
    with stack(folder) as running:
        running.worker()
        running.rq_worker()
        ports = {app: running.web(app) for app in {app for app, _, _ in contenders.values()}}
        for _ in range(scale.rounds + 1):
            for name, (app, path, target) in contenders.items():
                took[name].append(
                    _latencies(running, ports[app], path, target, scale.pick(50, 200))
                )
    rounds = {name: values[1:] for name, values in took.items()}  # the first finds everything cold
    for share, of, limit in (("p50", statistics.median, 5), ("p99", p99, 10)):
        plain = [of(values) for values in rounds["plain"]]
        for name in ("thread", "process"):
            ours = [of(values) for values in rounds[name]]
            yield Row(
                f"idle start to completed, {name}, {share}", ours, "{:.1f} ms", goal=at_most(limit)
            )
            goal = ratio_at_most(0.25) if share == "p50" else None
            yield Row("... the same", ours, "{:.1f} ms", "plain RQ", plain, goal)


def _latencies(running: Stack, port: int, path: str, target: str, count: int) -> list[float]:
    request = post(path, {"type": "agent", "target_id": target, "inputs": INPUTS})
    took = []
    with connect(port) as connection:
        for _ in range(count):
            began = time.perf_counter()
            id = exchange_json(connection, request)["execution_id"]
            wait_until(
                lambda id=id: running.client.hget(f"rq:job:{id}", "status") == b"finished",
                1,
                30,
                0.0002,
            )
            took.append((time.perf_counter() - began) * 1000)
            time.sleep(0.005)  # until the worker waits again: the service is to be idle
    return took


def chains(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures what one more empty step costs, by the store's clock.

    It is a hundredth of the difference between a chain of 101 steps and a chain of one.
    """
    found: dict[str, list[float]] = {"plain": [], "thread": [], "process": []}
    with stack(folder) as running:
        running.worker()
        running.rq_worker()
        for round in range(scale.rounds + 1):
            for name, values in found.items():
                step_ms = _plain_step_ms(running) if name == "plain" else _step_ms(running, name)
                if round:
                    values.append(step_ms)
    for name in ("thread", "process"):
        yield Row(
            f"pipeline, a step more, {name}",
            found[name],
            "{:.2f} ms",
            "a step as an RQ job of its own",
            found["plain"],
        )


def _step_ms(running: Stack, isolation: str) -> float:
    short, long = (
        statistics.median(_chain_ms(running, isolation, steps) for _ in range(CHAIN_RUNS))
        for steps in CHAIN_STEPS
    )
    return (long - short) / (CHAIN_STEPS[1] - CHAIN_STEPS[0])


def _chain_ms(running: Stack, isolation: str, steps: int) -> float:
    already = completed(running.client)
    target = f"chain_{isolation}_{steps}"
    [id] = fill(running.client, 1, target, isolation, TargetType.PIPELINE, steps, text="x")
    wait_until(lambda: completed(running.client), already + 1)
    started, ended = map(read_time, running.client.hmget(f"rq:job:{id}", "started_at", "ended_at"))
    return (ended - started).total_seconds() * 1000


def _plain_step_ms(running: Stack) -> float:
    queue, job = Queue("bench", connection=running.client), None
    already = int(running.client.zcard("rq:finished:bench"))
    began = time.perf_counter()
    for _ in range(PLAIN_CHAIN_STEPS):
        job = queue.enqueue(plain_rq_task.task, {}, depends_on=job)
    wait_until(lambda: int(running.client.zcard("rq:finished:bench")), already + PLAIN_CHAIN_STEPS)
    return (time.perf_counter() - began) * 1000 / PLAIN_CHAIN_STEPS
