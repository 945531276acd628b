"""Starts a store, web processes and workers, and measures their memory and CPU time.

Every figure in `bench.figures` runs inside `with stack(folder)`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import redis

from bench import agents
from tools.embedded_store import EmbeddedStore

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CELERY = ROOT / ".venv-bench" / "bin"
"""Celery has an environment of its own, because it pins other versions of shared libraries."""

Process = subprocess.Popen[bytes]


class Stack:
    """A store and the processes that use it. `client` is a client of the store."""

    def __init__(self, folder: Path, **env: Any):
        self.folder = folder
        self.store = EmbeddedStore(folder / "store", durable=False)
        self.store.start()
        self.client = redis.Redis.from_url(self.store.url)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")},
            "REDIS_URL": self.store.url,
            "AGENTS_PATH": str(agents.write(folder / "agents")),
            "PIPELINES_PATH": str(agents.write_pipelines(folder / "pipelines")),
            "LOG_LEVEL": "WARNING",  # the baselines write no line for a request either
            "WEB_CONCURRENCY": "1",
            **{name: str(value) for name, value in env.items()},
        }
        self.processes: list[Process] = []

    def web(self, app: str = "wsgi:app", *options: str) -> int:
        """Serves `module:app` with the service's gunicorn settings and these options.

        Returns the port once it accepts connections. Raises `RuntimeError` after 20 s.
        """
        port = free_port()
        # A baseline must not run the service's hooks, which need its application.
        config = "gunicorn.conf.py" if app == "wsgi:app" else "bench/baseline/server.py"
        process = self.run(str(BIN / "gunicorn"), "-c", config, *options, app, PORT=str(port))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return port
            time.sleep(0.02)
        raise RuntimeError(f"{app} does not start; see {self.folder / 'log'}")

    def worker(self, *options: str) -> Process:
        return self.run(sys.executable, "worker.py", *options)

    def rq_worker(self) -> Process:
        return self.run(
            str(BIN / "rq"),
            "worker",
            "bench",
            "--url",
            self.store.url,
            "--logging_level",
            "WARNING",
        )

    def celery_worker(self, processes: int) -> Process:
        command = [
            "-A",
            "bench.baseline.celery_app",
            "worker",
            "--concurrency",
            str(processes),
            "--loglevel",
            "ERROR",
        ]
        return self.run(str(CELERY / "celery"), *command)

    def run(self, *command: str, **env: str) -> Process:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**self.env, **env}, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def results(self) -> redis.Redis:
        """Returns a client of the database in which Celery stores its results."""
        return redis.Redis.from_url(f"{self.store.url}?db=1")

    def used_memory(self) -> int:
        """Returns the store's memory in bytes."""
        time.sleep(0.5)  # until buffers of the last calls are freed
        return int(self.client.info("memory")["used_memory"])

    def end(self, *processes: Process) -> None:
        """Ends these processes with SIGTERM, and with SIGKILL after 15 s."""
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        self.end(*self.processes)
        self.client.close()
        self.store.stop()


@contextlib.contextmanager
def stack(folder: Path, **env: Any) -> Iterator[Stack]:
    """Yields a running stack in a new folder below `folder`, and ends it afterwards."""
    own = folder / f"stack{sum(1 for _ in folder.iterdir())}"
    own.mkdir()
    running = Stack(own, **env)
    try:
        yield running
    finally:
        running.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(processes: Sequence[Process]) -> list[psutil.Process]:
    """Returns these processes and all their descendants."""
    return [
        process
        for p in processes
        for process in (psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True))
    ]


def pss_mb(processes: Sequence[Process]) -> float:
    """Returns the memory (PSS) of these processes and their descendants.

    PSS counts a page that several processes share once.
    """
    total = 0.0
    for process in family(processes):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended since it was listed
            total += process.memory_full_info().pss / 1e6
    return total


def cpu_seconds(processes: Sequence[Process]) -> float:
    """Returns the user and system time of these processes and their descendants so far."""
    times = [process.cpu_times() for process in family(processes)]
    return sum(spent.user + spent.system for spent in times)
