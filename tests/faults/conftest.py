"""Fixtures of the fault tests: a store, workers and a proxy that a test may break.

Leases are shorter than in production (3 s instead of 12), so that tests of lost leases are short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.proxy import Proxy
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

LEASE_SECONDS = 3.0

OF_WORKERS_ALONE = {
    "WORKER_PROCESSES",
    "WORKER_THREADS",
    "SHUTDOWN_GRACE",
    "PROCESS_MEMORY_LIMIT",
    "RUNS_PER_PROCESS",
}
"""Settings that the web process does not look at."""


class LastingWeb:
    """A web process behind a proxy, which the tests of a process take over from each other.

    Each test puts a store of its own behind the proxy and starts its own workers. Where a test
    wants other settings for the web process, or has harmed it, the next one starts another.
    """

    def __init__(self, folders: pytest.TempPathFactory):
        self._folders = folders
        self.proxy = Proxy("").__enter__()
        self._service: Service | None = None
        self._settings: dict[str, Any] = {}
        self._env: dict[str, str] = {}
        self._processes: set[int] = set()

    def take(self, workers: int = 1, **settings: Any) -> Service:
        """Returns when it has found the store."""
        own = {name: str(value) for name, value in settings.items() if name in OF_WORKERS_ALONE}
        wanted = {name: value for name, value in settings.items() if name not in own}
        if (
            self._service is None
            or wanted != self._settings
            or _pids(self._service) != self._processes
        ):
            self.end()
            self._service = Service(
                self.proxy.url, self._folders.mktemp("web"), workers=0, **wanted
            ).__enter__()
            self._settings, self._env = wanted, self._service.env
        service = self._service
        service.env = {**self._env, **own}
        deadline = time.monotonic() + 60
        while service.get("/executions").status_code != 200:
            assert time.monotonic() < deadline, service.output("web")
            time.sleep(0.05)
        self._processes = _pids(service)
        service.begin_test()
        for _ in range(workers):
            service.start_worker()
        return service

    def leave(self) -> None:
        if self._service is not None:
            self._service.end_workers()
        self.proxy.begin("")  # no store: it listens on, lest another takes its port

    def end(self) -> None:
        if self._service is not None:
            self._service.__exit__()
            self._service = None


def _pids(service: Service) -> set[int]:
    """All of the web's processes that run."""
    if service.web is None or service.web.poll() is not None:
        return set()
    return {
        service.web.pid,
        *(process.pid for process in psutil.Process(service.web.pid).children()),
    }


@pytest.fixture(scope="session")
def lasting_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LastingWeb]:
    web = LastingWeb(tmp_path_factory)
    yield web
    web.end()
    web.proxy.__exit__()


@pytest.fixture
def proxy(own_store: EmbeddedStore, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """In front of the test's own store."""
    path = own_store.url.removeprefix("unix://")
    if "broken" in request.fixturenames:
        running: Proxy = request.getfixturevalue("lasting_web").proxy
        running.begin(path)
        yield running
    else:
        with Proxy(path) as running:
            yield running


@pytest.fixture
def broken(proxy: Proxy, lasting_web: LastingWeb) -> Iterator[Callable[..., Service]]:
    """`broken(workers=1, ...)`: a service that reaches its store through the proxy."""
    assert proxy is lasting_web.proxy
    yield lambda **options: lasting_web.take(**{"LEASE": LEASE_SECONDS, **options})
    lasting_web.leave()


def children_of(pid: int) -> list[psutil.Process]:
    """The processes that run flows for this worker."""
    return [
        process
        for process in psutil.Process(pid).children(recursive=True)
        if process.name() == "exec-flows"
    ]


def ticks(path: Path) -> list[tuple[int, int, float]]:
    """Attempt, pid and time of each line that the flow `tick` wrote."""
    if not path.exists():
        return []
    rows = (line.split() for line in path.read_text().splitlines())
    return [(int(attempt), int(pid), float(at)) for attempt, pid, at in rows if at]
