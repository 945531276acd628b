"""Writes a fixture: what the code of one commit leaves in a store when its processes are killed.

    git worktree add --detach /tmp/old COMMIT
    python -m tests.store.formats.make /tmp/old tests/store/formats/NAME.json

It starts that code's web process and worker on an empty store, brings executions into each state
over HTTP, kills the processes and dumps every key. The environment that runs
this must also have what the old code imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
import requests

from tests.store.formats import TARGETS, dump
from tests.support.service import free_port
from tools.embedded_store import EmbeddedStore

WAIT_SECONDS = 60.0


class OldService:
    """The processes of the old code, and calls of its API."""

    def __init__(self, checkout: Path, store_url: str, folder: Path):
        self.port = free_port()
        env = {
            **os.environ,
            "REDIS_URL": store_url,
            "PORT": str(self.port),
            "AGENTS_PATH": str(TARGETS / "agents"),
            "PIPELINES_PATH": str(TARGETS / "pipelines"),
            "WEB_CONCURRENCY": "1",
            "WORKER_PROCESSES": "2",
            "WORKER_THREADS": "0",
            "PYTHONPATH": "",
        }
        programs = Path(sys.executable).parent
        log = (folder / "log").open("wb")
        self.processes = [
            subprocess.Popen(
                [programs / command[0], *command[1:]],
                cwd=checkout,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for command in (["gunicorn", "wsgi:app"], ["python", "worker.py"])
        ]

    def call(self, method: str, path: str, **options: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/executions{path}"
        return requests.request(method, url, timeout=30, **options).json()

    def start(self, do: str, type: str = "agent", key: str = "", **config: Any) -> str:
        target = {"agent": "kept", "pipeline": "kept_twice"}[type]
        inputs = {"text": f"{do} {type} " + "long " * 300, "do": do}
        body = {"type": type, "target_id": target, "inputs": inputs, "config": config}
        headers = {"Idempotency-Key": key} if key else {}
        return str(self.call("POST", "", json=body, headers=headers)["execution_id"])

    def until(self, id: str, wanted: Any) -> str:
        """Waits until the status of an execution is as wanted."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if wanted(found := self.call("GET", f"/{id}")):
                return id
            time.sleep(0.1)
        raise SystemExit(f"{id} does not come to the wanted state: {found}")

    def ready(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                self.call("GET", "")
                return
            except requests.RequestException:
                time.sleep(0.2)
        raise SystemExit("The old web process does not start.")

    def kill(self) -> None:
        for process in self.processes:
            os.killpg(process.pid, 9)
            process.wait()


def make(service: OldService) -> dict[str, str]:
    """Brings an execution into each state; returns their ids by the name of the state."""
    ended = {"completed": "echo", "failed": "fail"}
    ids = {}
    for type in ("agent", "pipeline"):
        for status, do in ended.items():
            ids[f"{status} {type}"] = service.until(
                service.start(do, type, f"{do}-{type}"), lambda got, s=status: got["status"] == s
            )
    id = service.until(service.start("wait"), lambda got: got["status"] == "running")
    service.call("POST", f"/{id}/cancel")
    ids["cancelled agent"] = service.until(id, lambda got: got["status"] == "cancelled")
    id = service.start("once", retries={"max": 5, "backoff_seconds": [86_400]})
    ids["delayed agent"] = service.until(
        id, lambda got: got["status"] == "pending" and got.get("phase") != "queued"
    )
    ids["running agent"] = service.until(
        service.start("wait"), lambda got: (got.get("progress") or {}).get("current_step") == 1
    )
    ids["running pipeline"] = service.until(
        service.start("wait", "pipeline"),
        lambda got: (got.get("progress") or {}).get("current_step", 0) >= 1,
    )
    time.sleep(6)  # the heartbeat that stores the progress
    ids["pending agent"] = service.start("echo")
    ids["pending pipeline"] = service.start("echo", "pipeline")
    return ids


def main(checkout: str, output: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedStore(Path(folder) / "store", durable=False)
        server.start()
        service = OldService(Path(checkout), server.url, Path(folder))
        try:
            service.ready()
            ids = make(service)
        except BaseException:
            print((Path(folder) / "log").read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            service.kill()
        with redis.Redis.from_url(server.url) as client:
            fixture = {"ids": ids, "keys": dump(client)}
        server.stop()
    Path(output).write_text(json.dumps(fixture, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
