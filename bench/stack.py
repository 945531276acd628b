"""Starts what is measured: a store, web processes, workers; measures memory; sends requests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import requests

from bench.agents import write
from tools.embedded_store import EmbeddedStore

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CONNECTIONS = 8


class Stack:
    """A store with one contender in front of it. `ours` is the service; the others are the baselines."""

    def __init__(self, folder: Path, **env: Any):
        self.folder = folder
        self.store = EmbeddedStore(folder / "store", durable=False)
        self.store.start()
        agents = write(folder / "agents")
        self.env = {
            **os.environ,
            "REDIS_URL": self.store.url,
            "AGENTS_PATH": str(agents),
            "PIPELINES_PATH": str(folder / "pipelines"),
            "LOG_LEVEL": "WARNING",
            "WEB_CONCURRENCY": "1",
            **{name: str(value) for name, value in env.items()},
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def web(self, app: str) -> int:
        """Serves `module:app` with our gunicorn settings; the port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        config = ["-c", "gunicorn.conf.py"] if app == "wsgi:app" else ["-c", "bench/baseline/server.py"]
        self.run(str(BIN / "gunicorn"), *config, app, PORT=str(port))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
                return port
            time.sleep(0.05)
        raise RuntimeError(f"{app} does not start")

    def worker(self, *options: str, **env: str) -> subprocess.Popen[bytes]:
        return self.run(sys.executable, "worker.py", *options, **env)

    def rq_worker(self) -> subprocess.Popen[bytes]:
        return self.run(str(BIN / "rq"), "worker", "bench", "--url", self.store.url, "--logging_level", "WARNING")

    def run(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "log").open("ab")
        process = subprocess.Popen(command, cwd=ROOT, env={**self.env, **env}, stdout=log, stderr=log)
        log.close()
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.store.stop()


def pss_mb(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    """What these processes and their descendants hold together, shared pages counted once."""
    family = [
        each for p in processes for each in (psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True))
    ]
    return sum(each.memory_full_info().pss for each in family) / 1e6


def requests_per_second(port: int, request: bytes, seconds: float) -> float:
    """Keep-alive connections, each sending the same request again as soon as it is answered."""
    counts = [0] * CONNECTIONS
    over = time.perf_counter() + seconds

    def client(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            while time.perf_counter() < over:
                exchange(connection, request)
                counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """Sends a request and returns the whole answer."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    if not head.startswith(b"HTTP/1.1 20"):
        raise RuntimeError(answer[:300])
    return body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextlib.contextmanager
def stack(folder: Path, **env: Any) -> Iterator[Stack]:
    folder.mkdir(parents=True)
    running = Stack(folder, **env)
    try:
        yield running
    finally:
        running.close()
