"""Starts a whole service for tests (real gunicorn, real workers), and calls it over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import requests

from app.domain.key import Identity, parse_scopes
from app.process.prctl import end_with_parent
from app.settings import Settings
from app.store.keys import KeyStore

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 60.0
END_SECONDS = 5.0
ENDED = ("completed", "failed", "cancelled")
OWN_BIN = Path(sys.executable).parent
"""Programs of the tests' own environment, which has every optional package."""

BIN = Path(os.environ.get("SERVICE_BIN") or OWN_BIN)
"""The service's programs. `make test` sets an environment as deployed, from requirements.txt only."""

# Variables of the developer's own environment that would change what a service does.
_NOT_OURS = ("OPENAI_", "API_KEYS", "AUTH", "METRICS", "HOST", "DYNO", "WEBHOOK_")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """Started by `with`. Web process and workers get `env`, and write their logs into `folder`."""

    def __init__(
        self,
        redis_url: str,
        folder: Path,
        *,
        workers: int = 1,
        agents: Path | None = None,
        pipelines: Path | None = None,
        bin: Path = BIN,
        **env: Any,
    ):
        self.folder, self.port, self._bin = folder, free_port(), bin
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = requests.Session()
        own = ROOT / "tests"
        paths = {
            "AGENTS_PATH": os.pathsep.join(
                map(str, [ROOT / "agents", own / "agents", *([agents] if agents else [])])
            ),
            "PIPELINES_PATH": os.pathsep.join(
                map(
                    str,
                    [ROOT / "pipelines", own / "pipelines", *([pipelines] if pipelines else [])],
                )
            ),
        }
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)},
            "REDIS_URL": redis_url,
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "1",  # so that a test knows which process answers
            "WORKER_PROCESSES": "2",
            **paths,
            **{name: str(value) for name, value in env.items()},
        }
        self._wanted_workers = workers
        self.web: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self._log_bytes: dict[str, int] = {}

    def __enter__(self) -> Service:
        try:
            self._launch_web()
            for _ in range(self._wanted_workers):  # they load while the web process does
                self.start_worker()
            self._wait_for_web()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()  # gunicorn waits for open connections before it ends
        _end([*([self.web] if self.web else []), *self.workers])

    def end_workers(self) -> None:
        """Ends all workers; the web process keeps running."""
        _end(self.workers)
        self.workers = []

    def start_web(self) -> subprocess.Popen[bytes]:
        """Starts the web process, and returns once it answers."""
        self._wait_for_the_end_of_web()
        web = self._launch_web()
        self._wait_for_web()
        return web

    def _launch_web(self) -> subprocess.Popen[bytes]:
        self.web = self._run("web", str(self._bin / "gunicorn"), "wsgi:app")
        return self.web

    def _wait_for_the_end_of_web(self) -> None:
        """The processes of a web server that was killed answer until they notice it."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", self.port)) != 0:
                    return
            time.sleep(0.02)

    def _wait_for_web(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.web is not None and self.web.poll() is None:
            try:
                # It listens before it has loaded, so this request may wait for the load.
                requests.get(f"{self.url}/healthz", timeout=START_SECONDS)
                return
            except requests.RequestException:
                time.sleep(0.02)
        raise AssertionError(f"The web process does not start:\n{self.output('web')}")

    def start_worker(self) -> subprocess.Popen[bytes]:
        worker = self._run(f"worker{len(self.workers)}", str(self._bin / "python"), "worker.py")
        self.workers.append(worker)
        return worker

    def flask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a `flask` command with the service's environment."""
        return self._command("flask", *arguments)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs Python with the service's environment, for example `-m app.check`."""
        return self._command("python", *arguments)

    def _command(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._bin / program, *arguments],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def add_key(self, name: str, scopes: str = "start,read,cancel", tenant: str = "default") -> str:
        """Adds an API key to the store, as `flask keys add` does, and returns it."""
        return self.keys().add(Identity(tenant, name, parse_scopes(scopes)))

    def keys(self) -> KeyStore:
        return KeyStore.connect(Settings(redis_url=self.env["REDIS_URL"]))

    def output(self, name: str) -> str:
        """Returns what a process (`web`, `worker0`, ...) has printed during this test."""
        return (self.folder / f"{name}.log").read_bytes()[self._log_bytes.get(name, 0) :].decode()

    def begin_test(self) -> None:
        """Makes `output` leave out what was printed during earlier tests."""
        self._log_bytes = {path.stem: path.stat().st_size for path in self.folder.glob("*.log")}

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # SIGKILL, because a frozen process would ignore SIGTERM if the tests are killed.
                preexec_fn=partial(end_with_parent, signal.SIGKILL),
            )

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.http.post(f"{self.url}/api/v1{path}", timeout=60, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.http.get(f"{self.url}/api/v1{path}", timeout=60, **options)

    def start(
        self,
        target_id: str,
        inputs: dict[str, Any] | None = None,
        *,
        type: str = "agent",
        **more: Any,
    ) -> str:
        """Starts an execution and returns its id; `more` are other fields of the body."""
        response = self.post(
            "/executions",
            json={"type": type, "target_id": target_id, "inputs": inputs or {}, **more},
        )
        assert response.status_code == 202, response.text
        return str(response.json()["execution_id"])

    def status(self, execution_id: str) -> dict[str, Any]:
        return dict(self.get(f"/executions/{execution_id}").json())

    def until(self, execution_id: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """Polls until the execution has one of these statuses; returns the last body."""
        began = time.monotonic()
        while (body := self.status(execution_id)).get("status") not in statuses:
            waited = time.monotonic() - began
            if waited > seconds:
                raise AssertionError(
                    f"Not {statuses} after {seconds} s: {body}\n{self.output('worker0')[-3000:]}"
                )
            # Asks less often the longer it takes: polls slow down what they wait for.
            time.sleep(min(max(0.01, waited / 20), 0.05))
        return body

    def ended(self, execution_id: str, seconds: float = 60) -> dict[str, Any]:
        return self.until(execution_id, *ENDED, seconds=seconds)

    def run(
        self, target_id: str, inputs: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """Starts an execution and waits for its end; returns the last body."""
        return self.ended(self.start(target_id, inputs, **more))

    def cancel(self, execution_id: str) -> requests.Response:
        return self.post(f"/executions/{execution_id}/cancel")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends processes with SIGTERM, and with SIGKILL after `END_SECONDS`."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGCONT)  # a frozen process cannot react to SIGTERM
        process.terminate()
    for process in running:
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
