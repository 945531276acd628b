"""Measures many executions that only wait: the time until all have ended, and the memory.

`bench.__main__` runs `four_hundred`, `model_calls`, `default_settings` and `a_thousand`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rq import Queue

from bench.baseline import plain_rq_task
from bench.figures.queue import submit_celery
from bench.figures.scale import Scale
from bench.figures.web import OURS, p99
from bench.load import connect, get, took_ms
from bench.stack import Process, Stack, free_port, pss_mb, stack
from bench.submit import completed, fill, wait_until
from bench.table import Row, at_most

PLAIN_COUNT = 8
"""Executions of a baseline. Few, because it runs them one after the other."""


@dataclass(frozen=True, slots=True)
class Waited:
    """`pss_mb` is the memory while they wait, `idle_pss_mb` before.

    `status_ms` has the times of status requests meanwhile.
    """

    seconds: float
    pss_mb: float
    idle_pss_mb: float
    status_ms: list[float]


def four_hundred(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures 400 executions that wait a second each, on two worker processes.

    The baselines have as many processes, and run fewer executions.
    """
    ours, plain, celery = [], [], []
    for _ in range(scale.pick(1, 3)):
        ours.append(_four_hundred_ours(folder))
        plain.append(_plain(folder))
        celery.append(_celery(folder))
    seconds, memory = [waited.seconds for waited in ours], [waited.pss_mb for waited in ours]
    share = 400 / PLAIN_COUNT
    for name, others in (("plain RQ", plain), ("Celery", celery)):
        goal = at_most(1.3) if name == "plain RQ" else None
        against = [other.seconds * share for other in others]
        yield Row(
            "400 that wait 1 s, two worker processes", seconds, "{:.2f} s", name, against, goal
        )
    yield Row("... all worker memory (PSS)", memory, "{:.0f} MB", goal=at_most(110))
    for name, others in (("plain RQ", plain), ("Celery", celery)):
        each_waits = [waited.pss_mb / 400 for waited in ours]
        against = [other.pss_mb / 2 for other in others]
        yield Row(
            "... all worker memory for each that waits", each_waits, "{:.2f} MB", name, against
        )


def _four_hundred_ours(folder: Path) -> Waited:
    with stack(folder) as running:
        workers = [running.worker("--threads", "200", "--processes", "0") for _ in range(2)]
        return _ours(running, workers, 400, 1.0)


def _plain(folder: Path) -> Waited:
    with stack(folder) as running:
        workers = [running.rq_worker() for _ in range(2)]
        queue = Queue("bench", connection=running.client)
        count = lambda: int(running.client.zcard("rq:finished:bench"))  # noqa: E731
        submit = lambda number, seconds: [  # noqa: E731
            queue.enqueue(plain_rq_task.task, {"seconds": seconds}) for _ in range(number)
        ]
        return _theirs(workers, count, submit)


def _celery(folder: Path) -> Waited:
    with stack(folder) as running, running.results() as results:
        workers = [running.celery_worker(2)]
        count = lambda: int(results.dbsize())  # noqa: E731
        return _theirs(
            workers,
            count,
            lambda number, seconds: submit_celery(running, number, {"seconds": seconds}),
        )


def _theirs(
    workers: list[Process], count: Callable[[], int], submit: Callable[[int, float], object]
) -> Waited:
    """Measures a baseline, from the first of its executions that ends to the last."""
    submit(2, 0)
    wait_until(count, 2)
    idle = pss_mb(workers)
    submit(PLAIN_COUNT + 2, 1.0)
    began = wait_until(count, 4)
    memory = pss_mb(workers)
    return Waited(wait_until(count, PLAIN_COUNT + 4) - began, memory, idle, [])


def model_calls(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures 1,000 calls to a model server that answers after 2 s.

    One worker process has 1,000 threads.
    """
    found = [_model_calls(folder, 1000, 2.0) for _ in range(scale.pick(1, 3))]
    seconds, memory = [waited.seconds for waited in found], [waited.pss_mb for waited in found]
    yield Row(
        "1,000 model calls of 2 s, one worker process", seconds, "{:.2f} s", goal=at_most(2.8)
    )
    yield Row("... its memory (PSS)", memory, "{:.0f} MB", goal=at_most(250))


def _model_calls(folder: Path, count: int, seconds: float) -> Waited:
    port = free_port()
    with stack(
        folder, OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1", OPENAI_API_KEY="x"
    ) as running:
        running.run(sys.executable, "-m", "tests.support.model_server", str(port), str(seconds))
        workers = [running.worker("--threads", str(count), "--processes", "0")]
        return _ours(running, workers, count, seconds, "asks")


def default_settings(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures 100 executions that wait, on a worker with default settings."""
    found = []
    for _ in range(scale.pick(1, 3)):
        with stack(folder) as running:
            found.append(_ours(running, [running.worker()], 100, 2.0))
    yield Row(
        "100 that wait, default settings, all worker memory (PSS)",
        _memory(found),
        "{:.0f} MB",
        goal=at_most(150),
    )
    yield Row("... before they were started", [waited.idle_pss_mb for waited in found], "{:.0f} MB")


def a_thousand(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures status requests while 1,000 executions wait, and the memory of each of these."""
    found = []
    for _ in range(scale.pick(1, 3)):
        with stack(folder) as running:
            found.append(
                _ours(running, [running.worker("--threads", "1000", "--processes", "0")], 1000, 5.0)
            )
    asked = [waited.status_ms for waited in found]
    yield Row(
        "status while 1,000 wait, p50", [statistics.median(times) for times in asked], "{:.1f} ms"
    )
    yield Row(
        "status while 1,000 wait, p99",
        [p99(times) for times in asked],
        "{:.1f} ms",
        goal=at_most(20),
    )
    each_waits_kb = [waited.pss_mb - waited.idle_pss_mb for waited in found]  # MB for a thousand
    yield Row("memory for one more that waits", each_waits_kb, "{:.0f} kB")


def _memory(found: list[Waited]) -> list[float]:
    return [waited.pss_mb for waited in found]


def _ours(
    running: Stack, workers: list[Process], count: int, seconds: float, target: str = "in_thread"
) -> Waited:
    """Measures the service, from the first submit to the last end, with warm workers."""
    client, inputs = running.client, {"question": "?"} if target == "asks" else {"seconds": seconds}
    port, already = running.web(), completed(client) + 20
    fill(client, 20, target, "thread", **{**inputs, "seconds": 0})
    wait_until(lambda: completed(client), already)
    time.sleep(1)
    idle, memory, status_ms = pss_mb(workers), 0.0, []
    began = time.perf_counter()
    newest = fill(client, count, target, "thread", **inputs)[-1]
    with connect(port) as connection:
        while completed(client) < already + count:
            if time.perf_counter() - began > 60:
                raise TimeoutError(
                    f"{completed(client) - already} of {count} are done after a minute"
                )
            if time.perf_counter() - began > seconds * 0.7 and not memory:
                memory = pss_mb(workers)
            status_ms.append(took_ms(connection, get(f"{OURS}/{newest}")))
            time.sleep(0.01)
    return Waited(time.perf_counter() - began, memory, idle, status_ms)
