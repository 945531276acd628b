"""Measures the store's memory for a small ended execution, and the connections of processes.

`bench.__main__` runs `bytes_each` and `connections`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from rq import Queue

from bench.baseline import plain_rq_task
from bench.figures.queue import INPUTS
from bench.figures.scale import Scale
from bench.load import get, requests_per_second
from bench.stack import pss_mb, stack
from bench.submit import completed, fill, fill_feed, wait_until
from bench.table import Row, at_most


def bytes_each(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures by how much the store's memory grows for an execution, its index entries included.

    Inputs and outputs have 300 bytes each.
    """
    ours, plain = _ours(folder, scale.pick(3000, 20_000)), _plain(folder, scale.pick(100, 500))
    yield Row(
        "store, bytes for each small execution",
        [ours],
        "{:.0f}",
        "plain RQ",
        [plain],
        at_most(1600),
    )


def connections(folder: Path, scale: Scale) -> Iterator[Row]:
    """Counts connections to the store, and measures memory.

    For a web process with 16 busy clients, and for an idle worker.
    """
    with stack(folder) as running:

        def count() -> int:
            return len(running.client.client_list()) - 1  # without this one

        port = running.web()
        requests_per_second(port, get("/api/v1/executions"), 2.0)
        web, web_mb = count(), pss_mb(running.processes)
        worker = running.worker()
        time.sleep(3.0)
        yield Row("store connections of a web process with 16 clients", [web])
        yield Row("... memory with its master (PSS, MB)", [web_mb])
        yield Row("store connections of an idle worker", [count() - web])
        yield Row("... its memory (PSS, MB)", [pss_mb([worker])])


def _ours(folder: Path, count: int) -> float:
    with stack(folder) as running:
        running.worker("--processes", "0")
        fill(running.client, 1000, "in_thread", "thread", **INPUTS)
        wait_until(lambda: completed(running.client), 1000)
        fill_feed(running.client)
        before = running.used_memory()
        fill(running.client, count, "in_thread", "thread", **INPUTS)
        wait_until(lambda: completed(running.client), count + 1000)
        return (running.used_memory() - before) / count


def _plain(folder: Path, count: int) -> float:
    with stack(folder) as running:
        queue = Queue("bench", connection=running.client)
        running.rq_worker()
        queue.enqueue(plain_rq_task.task, INPUTS)
        finished = lambda: int(running.client.zcard("rq:finished:bench"))  # noqa: E731
        wait_until(finished, 1)
        before = running.used_memory()
        queue.enqueue_many(
            [Queue.prepare_data(plain_rq_task.task, args=(INPUTS,)) for _ in range(count)]
        )
        wait_until(finished, count + 1)
        return (running.used_memory() - before) / count
