"""Measures callers that wait: their memory, a status beside them, how soon they hear of an end.

`bench.__main__` runs the figures.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from app.process import file_limit
from app.settings import Settings
from app.store.executions import ExecutionStore
from bench.figures.scale import Scale
from bench.load import connect, get, took_ms
from bench.stack import Stack, cpu_seconds, pss_mb, stack
from bench.submit import fill, wait_until
from bench.table import Row, Values, at_least, at_most

WAITERS = 2000
HEARD_BY = 1000
CHANGES_PER_SECOND = 2000
IDLE_ENDS = 50
ENDS_PER_SECOND = 200
PATH = "/api/v1/executions"
CHANNEL = "exec:changed:"


def many_waiters(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures the memory of 2,000 callers that wait for the end in one web process, and a status
    request beside them: while nothing happens, and while 2,000 changes a second are published.
    """
    with _waiters(folder, WAITERS) as (running, ids, callers):
        port, web = running.port, running.processes[0]
        seconds = scale.pick(2.0, 5.0)
        memory = pss_mb([web])
        quiet = _statuses(port, ids[0], seconds)
        before = cpu_seconds([web])
        with _publishing(running, ids):
            busy = _statuses(port, ids[0], seconds)
        cpu = (cpu_seconds([web]) - before) / seconds * 100
        waiting = len(callers) - len(_answered(callers))
    yield Row(
        "callers that wait for an end, one web process",
        [waiting],
        "{:.0f}",
        goal=at_least(WAITERS),
    )
    yield Row("... its memory, with its master (PSS)", [memory], "{:.0f} MB", goal=at_most(300))
    yield Row("... status beside them, p50", [statistics.median(quiet)], "{:.1f} ms")
    yield Row("... status beside them, p99", [_part(quiet, 0.99)], "{:.1f} ms", goal=at_most(20))
    name = f"... the same while they see {CHANGES_PER_SECOND:,} changes a second"
    yield Row(f"{name}, p99", [_part(busy, 0.99)], "{:.1f} ms", goal=at_most(20))
    yield Row("... CPU of the web process meanwhile, of a core", [cpu], "{:.0f} %")


def heard_of(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures the time from the call that ends an execution to the last byte at its waiter."""
    with _waiters(folder, HEARD_BY) as (running, ids, callers):
        many = _ends(running, ids, callers, HEARD_BY, 1 / ENDS_PER_SECOND)
    idle: list[float] = []
    for _ in range(scale.pick(1, 3)):
        with _waiters(folder, IDLE_ENDS) as (running, ids, callers):
            idle += _ends(running, ids, callers, IDLE_ENDS, 0.05)
    for name, took, most in ((f"{HEARD_BY:,} waiters", many, 250), ("an idle service", idle, 20)):
        label = f"from an end to its waiter, {name}"
        yield Row(f"{label}, p50", [statistics.median(took)], "{:.1f} ms")
        yield Row(f"{label}, p95", [_part(took, 0.95)], "{:.1f} ms", goal=at_most(most))


@contextlib.contextmanager
def _waiters(folder: Path, count: int) -> Iterator[tuple[_Waited, list[str], list[socket.socket]]]:
    """Yields a web process and `count` callers, each of which waits for an execution of its own."""
    file_limit.raise_to(2 * count + 200)
    with stack(folder) as running, contextlib.ExitStack() as opened:
        port = running.web()
        ids = fill(running.client, count)
        callers = []
        for id in ids:  # a connection must send its request within seconds
            callers.append(opened.enter_context(connect(port, 90)))
            callers[-1].sendall(get(f"{PATH}/{id}?wait=60"))
        wait_until(
            lambda: len(running.client.pubsub_channels(f"{CHANNEL}*")), count, pause_seconds=0.05
        )
        time.sleep(1)  # until each has read the store once more
        yield _Waited(running, port), ids, callers


class _Waited:
    """A stack, and the port of its web process."""

    def __init__(self, running: Stack, port: int):
        self.client, self.processes, self.port = running.client, running.processes, port


def _statuses(port: int, id: str, seconds: float) -> list[float]:
    """The milliseconds of each status request."""
    took, until = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < until:
        with connect(port) as connection:
            took.append(took_ms(connection, get(f"{PATH}/{id}")))
        time.sleep(0.01)  # a client that never pauses would measure itself
    return took


@contextlib.contextmanager
def _publishing(running: _Waited, ids: Sequence[str]) -> Iterator[None]:
    """Publishes changes that end nothing, as a worker's reports of progress do."""
    done, tenth = threading.Event(), CHANGES_PER_SECOND // 10

    def publish() -> None:
        while not done.wait(0.09):
            pipe = running.client.pipeline(transaction=False)
            for id in random.sample(ids, tenth):
                pipe.publish(CHANNEL + id, '3:0:[[1767609000000000,"progress",[1,4,"reading"]]]')
            pipe.execute()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _ends(
    running: _Waited,
    ids: Sequence[str],
    callers: Sequence[socket.socket],
    count: int,
    pause_seconds: float,
) -> list[float]:
    """Ends executions one by one. Returns the milliseconds until each of their waiters heard it."""
    store = ExecutionStore(running.client, Settings())
    ended: dict[socket.socket, float] = {}
    took: list[float] = []

    def end() -> None:
        for id, caller in zip(ids[:count], callers, strict=False):
            ended[caller] = time.perf_counter()
            store.cancel(id, "default")
            time.sleep(pause_seconds)

    _listening(callers[:count], end, lambda caller, at: took.append((at - ended[caller]) * 1000))
    return took


def _listening(
    callers: Sequence[socket.socket],
    meanwhile: Callable[[], None],
    heard: Callable[[socket.socket, float], None],
) -> None:
    """Calls `heard` for each caller that gets its answer, while `meanwhile` runs in a thread."""
    thread = threading.Thread(target=meanwhile)
    with selectors.DefaultSelector() as selector:
        for caller in callers:
            selector.register(caller, selectors.EVENT_READ, caller)
        thread.start()
        missing, deadline = len(callers), time.perf_counter() + 60
        while missing and time.perf_counter() < deadline:
            for key, _ in selector.select(1):
                at = time.perf_counter()
                selector.unregister(key.fileobj)
                heard(key.data, at)
                missing -= 1
        thread.join()


def _answered(callers: Sequence[socket.socket]) -> list[selectors.SelectorKey]:
    """Returns those whose answer has arrived."""
    with selectors.DefaultSelector() as selector:
        for caller in callers:
            selector.register(caller, selectors.EVENT_READ)
        return [key for key, _ in selector.select(0)]


def _part(values: Values, part: float) -> float:
    """The value below which this part of them is."""
    return sorted(values)[int(len(values) * part)]
