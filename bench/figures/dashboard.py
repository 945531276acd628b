"""Measures the dashboard: its first page with many executions, and many people who look at it.

`bench.__main__` runs the figures. The client does what a browser does with an open page.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from app.process import file_limit
from bench.figures.scale import Scale
from bench.load import body_of, connect, took_ms
from bench.stack import Stack, cpu_seconds, stack
from bench.submit import fill
from bench.table import Row, Values, at_most, ratio_at_most

DASHBOARDS = 200
RUNNING = 100
RUN_SECONDS = 5.0

# As in `macros.html` and `static/page.js`.
ASKS_AGAIN_SECONDS = 2.0
AT_MOST_EVERY_SECONDS = 1.0

# Without keys, the pages are served under this machine's own names only.
_PAGE = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_CHANGES = b"GET /ui/changes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_REFRESH = _PAGE.removesuffix(b"\r\n") + b"HX-Request: true\r\n\r\n"


def dashboard_page(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures the first page with 100 executions stored, and with 100,000, in turns.

    The value of a round is the median of fifty requests.
    """
    size = scale.pick(20_000, 100_000)
    with stack(folder) as small, stack(folder) as large, contextlib.ExitStack() as opened:
        pages = [opened.enter_context(connect(port)) for port in (small.web(), large.web())]
        fill(small.client, 100, text="x")
        fill(large.client, size, text="x")
        rounds = [_medians(pages) for _ in range(scale.rounds + 1)]
    few, many = zip(*rounds[1:], strict=True)  # the first finds everything cold
    name = f"dashboard, its first page at {size:,} stored"
    yield Row(name, many, "{:.2f} ms", "at 100", few, ratio_at_most(1.2))


def _medians(pages: list[socket.socket]) -> Values:
    took = [[took_ms(page, _PAGE) for page in pages] for _ in range(50)]
    return [statistics.median(values) for values in zip(*took, strict=True)]


def open_dashboards(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures the CPU time of a web process with 200 open pages while 100 executions run.

    As one ends, another one is started, so the pages are told of changes all the time.
    """
    file_limit.raise_to(4 * DASHBOARDS)
    seconds = scale.pick(4.0, 10.0)
    with stack(folder) as running, contextlib.ExitStack() as opened:
        port, web = running.web(), running.processes[-1]
        running.worker("--threads", str(RUNNING), "--processes", "0")
        for part in range(RUNNING):  # so that they do not all end at the same time
            fill(running.client, 1, "in_thread", "thread", seconds=RUN_SECONDS * part / RUNNING)
        pages, shares, rates = _Pages(running, port, opened), [], []
        pages.live(2 * ASKS_AGAIN_SECONDS)  # everything is warm then
        for _ in range(scale.rounds):
            spent, began, before = cpu_seconds([web]), time.perf_counter(), pages.refreshes
            pages.live(seconds)
            took = time.perf_counter() - began
            shares.append((cpu_seconds([web]) - spent) / took * 100)
            rates.append((pages.refreshes - before) / took)
    name = f"CPU of a web process, {DASHBOARDS} open dashboards, {RUNNING} running"
    yield Row(name, shares, "{:.0f} % of a core", goal=at_most(30))
    yield Row("... refreshes of the list", rates, "{:.0f}/s")


class _Pages:
    """The open pages, and the executions that start and end meanwhile."""

    def __init__(self, running: Stack, port: int, opened: contextlib.ExitStack):
        self._client = running.client
        self._selector = opened.enter_context(selectors.DefaultSelector())
        self._pages: list[_Page] = []
        for _ in range(DASHBOARDS):
            page, changes = (opened.enter_context(connect(port)) for _ in range(2))
            changes.sendall(_CHANGES)
            self._pages.append(_Page(page))
            self._selector.register(page, selectors.EVENT_READ, self._pages[-1].answered)
            self._selector.register(changes, selectors.EVENT_READ, self._pages[-1].heard)

    @property
    def refreshes(self) -> int:
        """How many answers the pages have got."""
        return sum(page.refreshes for page in self._pages)

    def live(self, seconds: float) -> None:
        """Lets all pages do what they do."""
        until = time.perf_counter() + seconds
        while (now := time.perf_counter()) < until:
            self._keep_running()
            for page in self._pages:
                page.ask(now)
            for key, _ in self._selector.select(0.02):
                key.data(cast(socket.socket, key.fileobj).recv(65536))

    def _keep_running(self) -> None:
        missing = RUNNING - int(self._client.zcard("exec:leases"))
        missing -= int(self._client.zcard("exec:waiting"))
        if missing > 0:
            fill(self._client, missing, "in_thread", "thread", seconds=RUN_SECONDS)


class _Page:
    """One open page: asks again after a while, and soon after it heard of a change."""

    def __init__(self, connection: socket.socket):
        self._connection, self._answer, self._is_asking = connection, bytearray(), False
        self._asked_at = time.perf_counter() - random.uniform(0, ASKS_AGAIN_SECONDS)
        self._has_heard, self.refreshes = False, 0

    def ask(self, now: float) -> None:
        """Asks, if it is time."""
        pause = AT_MOST_EVERY_SECONDS if self._has_heard else ASKS_AGAIN_SECONDS
        if not self._is_asking and now >= self._asked_at + pause:
            self._connection.sendall(_REFRESH)
            self._asked_at, self._is_asking, self._has_heard = now, True, False

    def heard(self, data: bytes) -> None:
        assert data, "A stream has ended."
        assert not data.startswith(b"HTTP/1.1 5"), data[:300]
        self._has_heard |= b"event: changed" in data

    def answered(self, data: bytes) -> None:
        assert data, "The server closed a connection."
        self._answer += data
        if body_of(self._answer) is not None:
            self._answer.clear()
            self._is_asking, self.refreshes = False, self.refreshes + 1
