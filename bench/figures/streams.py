"""Measures 2,000 open event streams on one web process, with an event a second each.

`bench.__main__` runs `event_streams`. The events come from the store's own scripts, as a worker's
heartbeats make them. The client is one thread beside them, so its own pauses are in the times.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from app.process import file_limit
from app.store.functions import Functions
from bench.figures.scale import Scale
from bench.load import connect, get
from bench.stack import Stack, cpu_seconds, pss_mb, stack
from bench.submit import fill
from bench.table import Row, Values, at_least, at_most

STREAMS = 2000
PARTS = 20  # the executions whose events come at the same time are this part of all
LEASE_SECONDS = 600  # no real worker extends the leases, and the reaper must not end them
LEASE = LEASE_SECONDS * 1_000_000
CLAIMED_PER_CALL = 60

_SENT = re.compile(rb'"current_step_name": "([0-9.]+)"')


def event_streams(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures a web process while each of its streams sends an event a second."""
    file_limit.raise_to(2 * STREAMS)
    with stack(folder, LEASE=LEASE_SECONDS) as running:
        port, web = running.web(), running.processes[-1]
        attempts = _claimed(running, STREAMS)
        with _opened(port, [id for id, _ in attempts]) as streams:
            load = _Load(running.store.url, attempts)
            _listen(streams, 2)  # everything is warm then
            seconds = scale.pick(8, 20)
            spent, began = cpu_seconds([web]), time.perf_counter()
            took = _listen(streams, seconds)
            share = (cpu_seconds([web]) - spent) / (time.perf_counter() - began) * 100
            memory = pss_mb([web])
            load.stop()
            _listen(streams, 2)  # what is still on its way
            alone = _alone(running, attempts[0], streams)
    name = f"event streams, one web process, {STREAMS:,} of them"
    yield Row(f"{name}: events/s", [len(took) / seconds], "{:.0f}", goal=at_least(0.95 * STREAMS))
    yield Row("... its share of one core", [share], "{:.0f} %", goal=at_most(60))
    yield Row("... its memory, with its master (PSS)", [memory], "{:.0f} MB", goal=at_most(300))
    yield Row("... from a change to the stream, p50", [statistics.median(took)], "{:.1f} ms")
    yield Row("... from a change to the stream, p95", [p95(took)], "{:.1f} ms", goal=at_most(250))
    yield Row("... the same when idle, p95", [p95(alone)], "{:.1f} ms", goal=at_most(20))


def p95(values: Values) -> float:
    return sorted(values)[int(len(values) * 0.95)]


class _Load:
    """Reports progress of every execution once a second, as their worker's heartbeats do."""

    def __init__(self, url: str, attempts: list[tuple[str, str]]):
        self._functions = Functions(redis.Redis.from_url(url))
        self._attempts = attempts
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        size, due, round = len(self._attempts) // PARTS, time.perf_counter(), 0
        while not self._stopping.is_set():
            round += 1
            for part in range(PARTS):
                beat(self._functions, self._attempts[part * size : (part + 1) * size], round)
                due += 1 / PARTS
                self._stopping.wait(max(0.0, due - time.perf_counter()))


def beat(functions: Functions, attempts: list[tuple[str, str]], round: int) -> None:
    progress = f'[{round},100000,"{time.time()}"]'
    rows = [part for id, token in attempts for part in (id, token, round, progress, "", "")]
    functions("beat", [LEASE, "", "", 5000, *rows])


def _claimed(running: Stack, count: int) -> list[tuple[str, str]]:
    fill(running.client, count, "in_thread", "thread", seconds=1)
    functions, found, number = Functions(running.client), list[tuple[str, str]](), 0
    functions("fence", ["w", number])
    while len(found) < count:
        number += 1
        rows = functions("claim", ["threads", "w", CLAIMED_PER_CALL, LEASE, number])
        found += [(row[0].decode(), row[1].decode()) for row in rows]
    return found


@contextlib.contextmanager
def _opened(port: int, ids: list[str]) -> Iterator[selectors.BaseSelector]:
    """A stream of each execution, past its head and snapshot."""
    with contextlib.ExitStack() as opened:
        selector = opened.enter_context(selectors.DefaultSelector())
        for id in ids:
            connection = opened.enter_context(connect(port))
            connection.sendall(get(f"/api/v1/executions/{id}/events"))
            answer = b""
            while b"event: snapshot" not in answer or not answer.endswith(b"\n\n\r\n"):
                answer += connection.recv(65536)
            selector.register(connection, selectors.EVENT_READ)
        yield selector


def _listen(streams: selectors.BaseSelector, seconds: float) -> list[float]:
    """The milliseconds from each change to its event here."""
    took, until = [], time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        for key, _ in streams.select(left):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            data = connection.recv(65536)
            assert data, "A stream has ended."
            now = time.time()
            took += [(now - float(sent)) * 1000 for sent in _SENT.findall(data)]
    return took


def _alone(
    running: Stack, attempt: tuple[str, str], streams: selectors.BaseSelector
) -> list[float]:
    """The same for one change at a time, while nothing else happens."""
    functions, took = Functions(running.client), list[float]()
    for round in range(60):
        beat(functions, [attempt], 90_000 + round)
        took += _listen(streams, 0.05)
    return took
