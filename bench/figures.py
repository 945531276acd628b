"""Each figure: what is measured, and how. They return plain numbers; `bench.__main__` makes the tables."""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import redis

from app.executions import scripts
from app.executions.identifiers import new_id
from app.executions.model import NewExecution, TargetType
from app.executions.store import submit_arguments
from app.settings import Settings
from bench.stack import exchange, get, post, pss_mb, requests_per_second, stack

TEXT = "x" * 280
START = json.dumps({"type": "agent", "target_id": "in_process", "inputs": {"text": TEXT}}).encode()

CONTENDERS = {
    "ours": ("wsgi:app", "/api/v1/executions"),
    "plain": ("bench.baseline.plain_rq:app", "/executions"),
    "bare": ("bench.baseline.bare_flask:app", "/executions"),
}


def http(folder: Path, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Starts and statuses a second, of each contender in turn, round after round: the medians."""
    found: dict[str, dict[str, list[float]]] = {"start": {}, "status": {}}
    with stack(folder / "http") as running:
        ports = {name: running.web(app) for name, (app, _) in CONTENDERS.items()}
        ids = {name: _one(ports[name], path) for name, (_, path) in CONTENDERS.items()}
        for _ in range(rounds):
            for name, (_, path) in CONTENDERS.items():
                rate = requests_per_second(ports[name], post(path, START), seconds)
                found["start"].setdefault(name, []).append(rate)
            for name, (_, path) in CONTENDERS.items():
                rate = requests_per_second(ports[name], get(f"{path}/{ids[name]}"), seconds)
                found["status"].setdefault(name, []).append(rate)
    return {kind: {name: statistics.median(rates) for name, rates in each.items()} for kind, each in found.items()}


def _one(port: int, path: str) -> str:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        return str(json.loads(exchange(connection, post(path, START)))["execution_id"])


def fill(client: redis.Redis, count: int, target: str = "in_process", queue: str = "processes", **inputs: Any) -> None:
    """Submits executions past the web process."""
    submit, unlimited = client.register_script(scripts.source("submit")), Settings(max_queue_length=0)
    with client.pipeline(transaction=False) as pipe:
        for number in range(count):
            new = NewExecution(
                id=new_id(),
                tenant="default",
                type=TargetType.AGENT,
                target_id=target,
                inputs=inputs,
                config={},
                queue=queue,
                total_steps=1,
                timeout_seconds=600,
                max_attempts=3,
            )
            submit(args=submit_arguments(new, unlimited), client=pipe)
            if number % 1000 == 999:
                pipe.execute()
        pipe.execute()


def lists(folder: Path, sizes: list[int]) -> dict[int, float]:
    """Milliseconds of a page of 50 (the median of 200), with so many executions stored."""
    found: dict[int, float] = {}
    with stack(folder / "lists") as running, redis.Redis.from_url(running.store.url) as client:
        port, stored = running.web("wsgi:app"), 0
        for size in sizes:
            fill(client, size - stored, text="x")
            stored = size
            with socket.create_connection(("127.0.0.1", port)) as connection:
                found[size] = statistics.median(
                    _timed(connection, get("/api/v1/executions?page_size=50")) for _ in range(200)
                )
    return found


def _timed(connection: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    exchange(connection, request)
    return (time.perf_counter() - began) * 1000


def _all_ended(client: redis.Redis, count: int) -> None:
    while client.zcard("exec:ended:completed") < count:
        time.sleep(0.002)


def drain(folder: Path, isolation: str, count: int, options: list[list[str]], **env: Any) -> float:
    """Executions a second that workers finish from a full queue, while the second to fourth fifth are finished."""
    queue = "threads" if isolation == "thread" else "processes"
    with stack(folder / f"drain-{isolation}", **env) as running, redis.Redis.from_url(running.store.url) as client:
        fill(client, count, f"in_{isolation}", queue, text=TEXT)
        for each in options:
            running.worker(*each)
        _all_ended(client, count)
        first, last = int(count * 0.2), int(count * 0.8)
        [(_, began)] = client.zrange("exec:ended:completed", first, first, withscores=True)
        [(_, ended)] = client.zrange("exec:ended:completed", last, last, withscores=True)
        return (last - first) / ((ended - began) / 1_000_000)


def drain_plain(folder: Path, count: int) -> float:
    """The same for two `rq worker` processes."""
    from rq import Queue

    from bench.baseline import plain_rq_task

    with stack(folder / "drain-plain") as running, redis.Redis.from_url(running.store.url) as client:
        for _ in range(2):
            running.rq_worker()
        queue = Queue("bench", connection=client)
        queue.enqueue(plain_rq_task.task, {})
        while client.zcard("rq:finished:bench") < 1:
            time.sleep(0.01)
        began = time.perf_counter()
        queue.enqueue_many([Queue.prepare_data(plain_rq_task.task, args=({"text": TEXT},)) for _ in range(count)])
        while client.zcard("rq:finished:bench") < count + 1:
            time.sleep(0.01)
        return count / (time.perf_counter() - began)


def latency(folder: Path, target: str, count: int) -> tuple[float, float]:
    """Milliseconds from a start request to `completed` in the store, on an idle service: p50 and p99."""
    took: list[float] = []
    with stack(folder / f"latency-{target}") as running, redis.Redis.from_url(running.store.url) as client:
        port = running.web("wsgi:app")
        running.worker()
        body = json.dumps({"type": "agent", "target_id": target, "inputs": {"text": TEXT}}).encode()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for number in range(count + 20):
                began = time.perf_counter()
                id = json.loads(exchange(connection, post("/api/v1/executions", body)))["execution_id"]
                while client.hget(f"rq:job:{id}", "status") != b"finished":
                    time.sleep(0.0002)
                if number >= 20:  # the first ones find everything cold
                    took.append((time.perf_counter() - began) * 1000)
                time.sleep(0.005)
    took.sort()
    return took[len(took) // 2], took[int(len(took) * 0.99)]


def waiting(folder: Path, count: int, seconds: float, options: list[list[str]], **env: Any) -> dict[str, float]:
    """`count` executions that wait: until all are done, the workers' memory meanwhile, a status's p99 meanwhile."""
    with stack(folder / f"waiting-{count}", **env) as running, redis.Redis.from_url(running.store.url) as client:
        port = running.web("wsgi:app")
        workers = [running.worker(*each) for each in options]
        return _measured(client, workers, port, count, seconds, target="in_thread")


def model_calls(folder: Path, count: int, seconds: float, threads: int) -> dict[str, float]:
    """The same for prompt flows, against a stand-in for the vendor that answers after so long."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        vendor_port = probe.getsockname()[1]
    vendor = subprocess.Popen([sys.executable, "-m", "tests.support.model_server", str(vendor_port), str(seconds)])
    env = {"OPENAI_BASE_URL": f"http://127.0.0.1:{vendor_port}/v1", "OPENAI_API_KEY": "x"}
    try:
        with stack(folder / "models", **env) as running, redis.Redis.from_url(running.store.url) as client:
            port = running.web("wsgi:app")
            workers = [running.worker("--threads", str(threads), "--processes", "0")]
            return _measured(client, workers, port, count, seconds, target="asks", question="?")
    finally:
        vendor.kill()
        vendor.wait()


def _measured(
    client: redis.Redis, workers: list[Any], port: int, count: int, seconds: float, target: str, **inputs: Any
) -> dict[str, float]:
    """From the first submit to the last end, with the workers warm."""
    fill(client, 50, target, "threads", **{**inputs, "seconds": 0})
    _all_ended(client, 50)
    time.sleep(2)
    began = time.perf_counter()
    fill(client, count, target, "threads", **{**inputs, "seconds": seconds})
    took: list[float] = []
    memory_mb = 0.0
    newest = client.zrange("exec:index:default:all:all", -1, -1)[0].decode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while client.zcard("exec:ended:completed") < count + 50:
            if time.perf_counter() - began > seconds * 0.7 and not memory_mb:
                memory_mb = pss_mb(workers)
            took.append(_timed(connection, get(f"/api/v1/executions/{newest}")))
            time.sleep(0.01)
    took.sort()
    return {"seconds": time.perf_counter() - began, "pss_mb": memory_mb, "status_p99_ms": took[int(len(took) * 0.99)]}


def bytes_per_execution(folder: Path, count: int) -> float:
    """Store memory for each finished execution of 300 bytes in and 300 bytes out, index included."""
    with stack(folder / "bytes") as running, redis.Redis.from_url(running.store.url) as client:
        running.worker("--threads", "0")
        fill(client, 100, text=TEXT)
        _all_ended(client, 100)
        before = client.info("memory")["used_memory"]
        fill(client, count, text=TEXT)
        _all_ended(client, count + 100)
        return float(client.info("memory")["used_memory"] - before) / count


def connections(folder: Path) -> dict[str, float]:
    """Connections to the store, and memory: of a web process that eight clients keep busy, of an idle worker."""
    with stack(folder / "connections") as running, redis.Redis.from_url(running.store.url) as client:

        def count() -> int:
            return len(client.client_list()) - 1  # without this one

        port = running.web("wsgi:app")
        requests_per_second(port, get("/api/v1/executions"), 2.0)
        web, web_mb = count(), pss_mb(running.processes)
        worker = running.worker()
        time.sleep(3.0)
        return {"web": web, "web_mb": web_mb, "worker": count() - web, "worker_mb": pss_mb([worker])}
