"""Measures the web process: starts, statuses, lists, and statuses while many callers wait.

`bench.__main__` runs the figures; `servers` belongs to the full run only.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.figures.scale import Scale
from bench.load import connect, exchange, exchange_json, get, post, requests_per_second, took_ms
from bench.stack import Stack, cpu_seconds, stack
from bench.submit import fill, wait_until
from bench.table import Row, Values, at_most, ratio_at_least, ratio_at_most

TEXT = "x" * 280
START = {"type": "agent", "target_id": "in_process", "inputs": {"text": TEXT}}
OURS = "/api/v1/executions"
CONTENDERS = {
    "ours": ("wsgi:app", OURS),
    "plain Flask + RQ": ("bench.baseline.plain_rq:app", "/executions"),
    "bare Flask": ("bench.baseline.bare_flask:app", "/executions"),
    "bare Flask with one store call": ("bench.baseline.one_call:app", "/executions"),
}
SERVERS = {
    "gevent": [],
    "sync": ["--worker-class", "sync"],
    **{f"gthread, {n}": ["--worker-class", "gthread", "--threads", str(n)] for n in (16, 64)},
}
WAITING_CALLERS = 50  # fewer than the 64 threads that the web process once had


def starts_and_statuses(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures requests per second, and the CPU time of the web processes for a request.

    All contenders have two web processes with the same settings, and take turns.
    """
    rates: dict[tuple[str, str], list[float]] = {}
    cpu_ms: dict[tuple[str, str], list[float]] = {}
    with stack(folder, WEB_CONCURRENCY=2) as running:
        contenders = {name: _Contender(running, *served) for name, served in CONTENDERS.items()}
        for kind in ("start", "status"):
            for round in range(scale.rounds + 1):
                for name, contender in contenders.items():
                    rate, cpu = contender.measure(kind, scale.pick(2, 4) if round else 1)
                    if round:  # the first finds everything cold
                        rates.setdefault((kind, name), []).append(rate)
                        cpu_ms.setdefault((kind, name), []).append(cpu)
    for kind, goals in (("start", (1.5, 0.6, None)), ("status", (2, 0.85, None))):
        ours = rates[kind, "ours"]
        for name, goal in zip(list(CONTENDERS)[1:], goals, strict=True):
            reached = ratio_at_least(goal) if goal else None
            yield Row(f"{kind}, requests/s", ours, "{:.0f}", name, rates[kind, name], reached)
        for name in ("plain Flask + RQ", "bare Flask"):
            label = f"... CPU of the web processes for a {kind}"
            yield Row(label, cpu_ms[kind, "ours"], "{:.2f} ms", name, cpu_ms[kind, name])


class _Contender:
    """A running server, and the two requests that it gets."""

    def __init__(self, running: Stack, app: str, path: str, options: Sequence[str] = ()):
        self._port = running.web(app, *options)
        self._server = running.processes[-1]
        with connect(self._port) as connection:
            id = exchange_json(connection, post(path, START))["execution_id"]
        self._requests = {"start": post(path, START), "status": get(f"{path}/{id}")}

    def measure(self, kind: str, seconds: float) -> tuple[float, float]:
        """Returns the requests per second, and the CPU milliseconds of the server for one."""
        before = cpu_seconds([self._server])
        rate, answered = requests_per_second(self._port, self._requests[kind], seconds)
        return rate, (cpu_seconds([self._server]) - before) * 1000 / answered


def lists(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures a page of 50 executions with 1,000 stored, and with many more, in turns.

    The value of a round is the median of fifty requests.
    """
    page = get(f"{OURS}?page_size=50")
    with stack(folder) as small, stack(folder) as large:
        stored, ports = 0, [small.web(), large.web()]
        fill(small.client, 1000, text="x")
        for size in scale.pick([20_000], [100_000, 1_000_000]):
            fill(large.client, size - stored, text="x")
            stored = size
            took: list[list[float]] = [[], []]
            for _ in range(scale.rounds + 1):
                for port, values in zip(ports, took, strict=True):
                    with connect(port) as connection:
                        values.append(
                            statistics.median(took_ms(connection, page) for _ in range(50))
                        )
            few, many = (values[1:] for values in took)  # the first finds everything cold
            name = f"list, a page of 50 at {size:,} stored"
            yield Row(name, many, "{:.2f} ms", "at 1,000", few, ratio_at_most(1.5))
            yield Row("... the same", many, "{:.2f} ms", goal=at_most(10))


def waiting_callers(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measures a status while fifty callers wait for a cancel that the flow ignores.

    A cancel waits for up to five seconds.
    """
    took = [ms for _ in range(scale.pick(1, 3)) for ms in _while_callers_wait(folder, [])]
    yield Row(
        f"status while {WAITING_CALLERS} callers wait, p50", [statistics.median(took)], "{:.1f} ms"
    )
    yield Row(
        f"status while {WAITING_CALLERS} callers wait, p99",
        [p99(took)],
        "{:.1f} ms",
        goal=at_most(20),
    )


def servers(folder: Path, scale: Scale) -> Iterator[Row]:
    """Compares gunicorn's worker classes, from which `gunicorn.conf.py` has chosen one."""
    rates: dict[tuple[str, str], list[float]] = {}
    with stack(folder) as running:
        contenders = {
            name: _Contender(running, "wsgi:app", OURS, options)
            for name, options in SERVERS.items()
        }
        for kind in ("start", "status"):
            for _ in range(scale.rounds):
                for name, contender in contenders.items():
                    rates.setdefault((kind, name), []).append(
                        contender.measure(kind, scale.pick(1, 2))[0]
                    )
    for name, options in SERVERS.items():
        for kind in ("start", "status"):
            chosen = rates[kind, "gevent"]
            yield Row(
                f"server {name}: {kind}, requests/s", rates[kind, name], "{:.0f}", "gevent", chosen
            )
        took = _while_callers_wait(folder, options)
        yield Row(
            f"server {name}: status while {WAITING_CALLERS} callers wait, p99",
            [p99(took)],
            "{:.1f} ms",
        )


def p99(values: Values) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _while_callers_wait(folder: Path, options: list[str]) -> list[float]:
    """Returns the milliseconds of each status request while the callers wait."""
    with (
        stack(folder, CANCEL_GRACE=30, WORKER_THREADS=WAITING_CALLERS) as running,
        contextlib.ExitStack() as opened,
    ):
        port, worker = running.web("wsgi:app", *options), running.worker("--processes", "0")
        ids = fill(running.client, WAITING_CALLERS, "in_thread", "thread", seconds=8)
        wait_until(lambda: int(running.client.zcard("exec:leases")), WAITING_CALLERS)
        callers = [opened.enter_context(connect(port)) for _ in ids]
        for caller, id in zip(callers, ids, strict=True):
            caller.sendall(post(f"{OURS}/{id}/cancel"))
        time.sleep(0.5)
        took, until = [], time.perf_counter() + 4
        while time.perf_counter() < until:
            began = time.perf_counter()
            # A server without a free process or thread may answer none of them.
            with contextlib.suppress(TimeoutError), connect(port) as connection:
                exchange(connection, get(f"{OURS}/{ids[0]}"))
            took.append((time.perf_counter() - began) * 1000)
            time.sleep(0.01)
        worker.kill()
        return took
