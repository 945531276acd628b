"""Measures the dashboard: its first page with many executions, and many people who look at it.

`bench.__main__` runs the figures.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from app.process import file_limit
from bench.figures.scale import Scale
from bench.load import connect, exchange, took_ms
from bench.stack import cpu_seconds, stack
from bench.submit import fill, wait_until
from bench.table import Row, at_most, ratio_at_most

DASHBOARDS = 200
RUNNING = 100
REFRESH_SECONDS = 2.0  # as in `macros.html`

# Without keys, the pages are served under this machine's own names only.
_PAGE = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_CHANGES = b"GET /ui/changes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_REFRESH = _PAGE.removesuffix(b"\r\n") + b"HX-Request: true\r\n\r\n"


def dashboard_page(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures the first page with 100 executions stored, and with 100,000, in turns.

    The value of a round is the median of thirty requests.
    """
    size = scale.pick(20_000, 100_000)
    with stack(folder) as small, stack(folder) as large:
        ports = [small.web(), large.web()]
        fill(small.client, 100, text="x")
        fill(large.client, size, text="x")
        took: list[list[float]] = [[], []]
        for _ in range(scale.rounds + 1):
            for port, values in zip(ports, took, strict=True):
                with connect(port) as connection:
                    values.append(statistics.median(took_ms(connection, _PAGE) for _ in range(30)))
    few, many = (values[1:] for values in took)  # the first finds everything cold
    name = f"dashboard, its first page at {size:,} stored"
    yield Row(name, many, "{:.2f} ms", "at 100", few, ratio_at_most(1.2))


def open_dashboards(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures the CPU time of a web process with 200 open pages while 100 executions run.

    Each page asks for the list again every two seconds, and has a stream of changes, as in a
    browser.
    """
    file_limit.raise_to(4 * DASHBOARDS)
    with stack(folder) as running, contextlib.ExitStack() as opened:
        port, web = running.web(), running.processes[-1]
        running.worker("--threads", str(RUNNING), "--processes", "0")
        fill(running.client, RUNNING, "in_thread", "thread", seconds=60)
        wait_until(lambda: int(running.client.zcard("exec:leases")), RUNNING)
        pages = [opened.enter_context(connect(port)) for _ in range(DASHBOARDS)]
        for _ in pages:
            opened.enter_context(connect(port)).sendall(_CHANGES)
        shares = []
        for _ in range(scale.rounds + 1):
            rounds = scale.pick(2, 4)
            began, before = time.perf_counter(), cpu_seconds([web])
            for number, page in enumerate(itertools.chain.from_iterable([pages] * rounds)):
                due = began + number * REFRESH_SECONDS / DASHBOARDS
                time.sleep(max(0.0, due - time.perf_counter()))
                exchange(page, _REFRESH)
            spent = cpu_seconds([web]) - before
            shares.append(100 * spent / (rounds * REFRESH_SECONDS))
    name = f"CPU of the web process, {DASHBOARDS} open dashboards, {RUNNING} running"
    yield Row(name, shares[1:], "{:.0f} % of a core", goal=at_most(30))
