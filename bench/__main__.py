"""`make bench` (a minute or two) and `make bench-full`: every figure, and its ratio to a baseline of the same run.

The full run writes its table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import redis

from bench import figures
from tools.embedded_store import EmbeddedStore

PERFORMANCE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- begin: make bench-full -->", "<!-- end -->"

Row = tuple[str, str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the service against its baselines.")
    parser.add_argument(
        "--full", action="store_true", help="longer rounds, a million executions listed; writes the docs"
    )
    parser.add_argument("--only", default="", help="only figures whose name contains this")
    options = parser.parse_args()
    lines = [_where(), "", "| figure | measured | ratio | to reach |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for measure in _figures(options.full):
            if options.only in measure.__name__:
                for row in measure(Path(folder)):
                    lines.append("| " + " | ".join(row) + " |")
                    print(lines[-1], flush=True)
    if options.full and not options.only:
        text = PERFORMANCE.read_text()
        table = f"{BEGIN}\n" + "\n".join(lines) + f"\n{END}"
        PERFORMANCE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, text, flags=re.DOTALL))


def _figures(full: bool) -> list[Callable[[Path], Iterator[Row]]]:
    """The figures in the order of the table. Each yields its rows."""
    plain_drain: list[float] = []

    def http(folder: Path) -> Iterator[Row]:
        found = figures.http(folder, rounds=5 if full else 2, seconds=4 if full else 2)
        start, status = found["start"], found["status"]
        yield (
            "start, requests/s",
            f"{start['ours']:.0f}",
            f"{start['ours'] / start['plain']:.2f} x plain, {start['ours'] / start['bare']:.2f} x bare Flask",
            "1.5 x, 0.6 x",
        )
        yield (
            "status, requests/s",
            f"{status['ours']:.0f}",
            f"{status['ours'] / status['plain']:.2f} x plain, {status['ours'] / status['bare']:.2f} x bare Flask",
            "2 x, 0.85 x",
        )

    def lists(folder: Path) -> Iterator[Row]:
        sizes = [1000, 100_000, 1_000_000] if full else [1000, 20_000]
        found = figures.lists(folder, sizes)
        for size, took_ms in found.items():
            ratio = took_ms / found[1000]
            yield (
                f"list, a page of 50 at {size:,} stored",
                f"{took_ms:.2f} ms",
                f"{ratio:.2f} x at 1,000",
                "1.5 x, 10 ms",
            )

    def drain_plain(folder: Path) -> Iterator[Row]:
        plain_drain.append(figures.drain_plain(folder, 600 if full else 200))
        yield "drain, plain RQ, 2 workers", f"{plain_drain[0]:.0f}/s", "1", ""

    def drain_threads(folder: Path) -> Iterator[Row]:
        options = [["--processes", "0"]] * 2
        rate = figures.drain(folder, "thread", 30_000 if full else 6000, options)
        yield "drain, threads, 2 workers", f"{rate:.0f}/s", _ratio(rate, plain_drain), "60 x"

    def drain_processes(folder: Path) -> Iterator[Row]:
        rate = figures.drain(folder, "process", 10_000 if full else 2000, [["--threads", "0", "--processes", "2"]])
        yield "drain, 2 warm processes", f"{rate:.0f}/s", _ratio(rate, plain_drain), "10 x"

    def latency(folder: Path) -> Iterator[Row]:
        for target in ("in_process", "in_thread"):
            p50, p99 = figures.latency(folder, target, 1000 if full else 200)
            yield f"idle start to completed, {target.replace('_', ' ')}", f"{p50:.1f} / {p99:.1f} ms", "", "5 / 10 ms"

    def waiting_400(folder: Path) -> Iterator[Row]:
        options = [["--threads", "200", "--processes", "0"]] * 2
        found = figures.waiting(folder, 400, 1.0, options)
        yield "400 that wait 1 s, two worker processes", f"{found['seconds']:.2f} s", "", "1.3 s"
        yield "... their memory (PSS)", f"{found['pss_mb']:.0f} MB", "", "110 MB"

    def model_calls(folder: Path) -> Iterator[Row]:
        found = figures.model_calls(folder, 1000, 2.0, 1000)
        yield "1,000 model calls of 2 s, one worker of 1,000 threads", f"{found['seconds']:.2f} s", "", "2.8 s"
        yield "... its memory (PSS)", f"{found['pss_mb']:.0f} MB", "", "250 MB"

    def waiting_100(folder: Path) -> Iterator[Row]:
        found = figures.waiting(folder, 100, 2.0, [[]])
        yield "100 waiting, default settings, memory (PSS)", f"{found['pss_mb']:.0f} MB", "", "150 MB"

    def waiting_1000(folder: Path) -> Iterator[Row]:
        found = figures.waiting(folder, 1000, 5.0, [["--threads", "1000", "--processes", "0"]])
        yield "status p99 while 1,000 wait", f"{found['status_p99_ms']:.1f} ms", "", "20 ms"

    def store_bytes(folder: Path) -> Iterator[Row]:
        yield "store, bytes per small execution", f"{figures.bytes_per_execution(folder, 10_000):.0f}", "", "2,000"

    def connections(folder: Path) -> Iterator[Row]:
        found = figures.connections(folder)
        yield "store connections of a web process with 8 clients", f"{found['web']:.0f}", "", "34"
        yield "... memory (PSS), with its master", f"{found['web_mb']:.0f} MB", "", ""
        yield "store connections of a worker", f"{found['worker']:.0f}", "", "10"
        yield "... its memory (PSS), idle", f"{found['worker_mb']:.0f} MB", "", ""

    return [
        *(http, lists, drain_plain, drain_threads, drain_processes, latency),
        *(waiting_400, model_calls, waiting_100, waiting_1000, store_bytes, connections),
    ]


def _ratio(rate: float, plain: list[float]) -> str:
    return f"{rate / plain[0]:.0f} x plain RQ" if plain else ""


def _where() -> str:
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedStore(Path(folder) / "s", durable=False)
        store.start()
        with redis.Redis.from_url(store.url) as client:
            info = client.info("server")
        store.stop()
    names = ("flask", "rq", "redis", "gunicorn", "openai")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    server = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"{server}, {versions}."
    )


if __name__ == "__main__":
    main()
