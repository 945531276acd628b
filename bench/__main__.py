"""Measures the service and its baselines, and prints a table: `make bench`, `make bench-full`.

`make bench` takes two to three minutes. The full run takes a quarter of an hour and writes its
table into docs/performance.md. A figure that fails gets a row that says so; the others still run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import redis

from bench import table
from bench.figures import (
    dashboard,
    queue,
    share,
    store,
    streams,
    waiters,
    waiting,
    web,
    webhooks,
)
from bench.figures.scale import Scale
from bench.load import client as client_of_rates
from bench.stack import CELERY
from bench.table import Row
from tools.embedded_store import EmbeddedStore

Figure = Callable[[Path, Scale], Iterator[Row]]

FIGURES: list[Figure] = [
    *(web.starts_and_statuses, web.lists, queue.drain, queue.latency),
    *(waiting.four_hundred, waiting.model_calls, waiting.default_settings, waiting.a_thousand),
    *(web.waiting_callers, waiters.many_waiters, waiters.heard_of, queue.chains),
    *(store.bytes_each, store.connections, share.store_share, webhooks.deliveries),
    streams.event_streams,
    *(dashboard.dashboard_page, dashboard.open_dashboards),
]
FULL_ONLY: list[Figure] = [web.servers]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the service against its baselines.")
    parser.add_argument(
        "--full", action="store_true", help="longer, with a million executions; writes the docs"
    )
    parser.add_argument(
        "--only", default="", help="only figures whose name contains this: " + ", ".join(_names())
    )
    options = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(1)
    )  # unwinds, so that each stack ends its processes
    chosen = [
        figure
        for figure in _figures(options.full or bool(options.only))
        if options.only in figure.__name__
    ]
    lines = [_where("make bench-full" if options.full else "make bench"), "", *table.HEAD]
    print("\n".join(lines), flush=True)
    for figure in chosen:
        for line in _measured(figure, Scale(options.full)):
            lines.append(line)
            print(line, flush=True)
    if options.full and not options.only:
        table.write(lines)


def _figures(full: bool) -> list[Figure]:
    return FIGURES + FULL_ONLY if full else FIGURES


def _names() -> list[str]:
    return [figure.__name__ for figure in _figures(True)]


def _measured(figure: Figure, scale: Scale) -> Iterator[str]:
    """Yields the rows of a figure as lines, and one that says `failed` if it raises."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            for row in figure(Path(folder), scale):
                yield str(row)
        except Exception as error:
            traceback.print_exc()
            yield f"| {figure.__name__} | failed: {type(error).__name__} | | | | **no** |"


def _where(command: str) -> str:
    """Returns one line that names the command, the date, the machine and the versions."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedStore(Path(folder) / "s", durable=False)
        server.start()
        with redis.Redis.from_url(server.url) as client:
            info = client.info("server")
        server.stop()
    names = ", ".join(
        f"{name} {version(name)}" for name in ("flask", "rq", "redis", "gunicorn", "openai")
    )
    kind = (
        f"Valkey {info['valkey_version']}"
        if "valkey_version" in info
        else f"Redis {info['redis_version']}"
    )
    return (
        f"`{command}` on {datetime.date.today()}: {os.cpu_count()} cores ({_processor()}), "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, {kind}, "
        f"{names}, celery {_celery_version()}. Client of the rates: {client_of_rates()}."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _celery_version() -> str:
    if not (CELERY / "python").exists():
        return "missing"
    command = [str(CELERY / "python"), "-c", "import celery; print(celery.__version__)"]
    return (
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        or "missing"
    )


if __name__ == "__main__":
    main()
