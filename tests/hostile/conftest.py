"""Fixtures of the attacks: one service with ten honest tenants and an attacker, the `stranger`.

All attacks of `tests/hostile` share it, unless they need a service of their own.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.hostile.neighbours import KEYS
from tests.support.model_server import ModelServer
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

STRANGER = "the-key-of-a-stranger"
OWN_AGENTS = Path(__file__).parent / "agents"
MAX_RETRIED_BYTES = 2_000_000
WATCH_SECONDS = 0.05


class Town(Service):
    """The attacked service. It restarts its workers when they end, as systemd or Heroku do.

    Its own methods (`post`, `start`, `run`) send requests with the stranger's key.
    """

    def __init__(self, redis_url: str, folder: Path, model: ModelServer):
        super().__init__(
            redis_url,
            folder,
            workers=2,
            agents=OWN_AGENTS,
            API_KEYS=",".join(
                [f"tenant{n}:{key}" for n, key in enumerate(KEYS)] + [f"stranger:{STRANGER}"]
            ),
            WORKER_THREADS=20,
            # Short, so that workers which an attack ends are soon there again.
            SHUTDOWN_GRACE=1,
            CANCEL_GRACE=0.5,
            MAX_RETRIED_BYTES_PER_TENANT=MAX_RETRIED_BYTES,
            OPENAI_BASE_URL=model.url,
            OPENAI_API_KEY="x",
        )
        self.model = model
        self.more_agents = folder / "agents"
        self.more_agents.mkdir()
        self.env["AGENTS_PATH"] += f"{os.pathsep}{self.more_agents}"
        self.http.headers["X-API-Key"] = STRANGER
        self.replaced = 0
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep_workers, daemon=True)

    def __enter__(self) -> Town:
        super().__enter__()
        self._keeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        if self._keeper.ident:
            self._keeper.join()
        super().__exit__(*error)

    def _keep_workers(self) -> None:
        kept: list[subprocess.Popen[bytes]] = list(self.workers)
        while not self._closing.wait(WATCH_SECONDS):
            for number, worker in enumerate(kept):
                if worker.poll() is not None:
                    self.replaced += 1
                    kept[number] = self.start_worker()

    def log(self) -> str:
        """Returns the logs of the web process and of all workers, ended ones too."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@pytest.fixture(scope="package")
def town(store_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with redis.Redis.from_url(store_server.url, db=3) as client:
        client.flushdb()
    url = f"{store_server.url.removesuffix('/0')}?db=3"
    with ModelServer() as model, Town(url, tmp_path_factory.mktemp("town"), model) as running:
        yield running


@pytest.fixture
def store_of_town(town: Town) -> Iterator[Any]:
    with redis.Redis.from_url(town.env["REDIS_URL"]) as client:
        yield client
