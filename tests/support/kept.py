"""Services that outlive the test that asked for them: most of the time of a short test goes into
their start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

_DATABASES = range(8, 13)
"""Of the store of a test process. Those before have other users; this many services are kept at a
time.
"""


class KeptServices:
    """One service for each set of options, in a database of its own. Used with `with`."""

    def __init__(self, store: EmbeddedStore, folders: pytest.TempPathFactory):
        self._store, self._folders = store, folders
        self._services: dict[str, Service] = {}
        self._folder: Path | None = None
        self._free = [f"{store.url.removesuffix('/0')}?db={number}" for number in _DATABASES]

    def __enter__(self) -> KeptServices:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._services):
            self._end(name)

    def begin_test(self, folder: Path) -> None:
        """Ends what tests of another folder have used: those of this one rarely ask for the same."""
        if self._folder not in (None, folder):
            self.__exit__()
        self._folder = folder

    def take(self, **options: Any) -> Service:
        """The service with these options, started if there is none yet. Its store is empty."""
        name = repr(sorted(options.items()))
        service = self._services.pop(name, None) or self._start(options)
        self._services[name] = service  # as the last, which is ended last
        with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
            client.flushdb()
        service.begin_test()
        return service

    def give_back(self, service: Service, *, failed: bool) -> None:
        """Ends what the test left to its workers. A service that may have been harmed is not kept."""
        name = next((name for name, kept in self._services.items() if kept is service), None)
        if name is None:
            return
        try:
            assert not failed
            assert all(
                process and process.poll() is None for process in (service.web, *service.workers)
            )
            _end_executions(service)
        except Exception:
            self._end(name)

    def _start(self, options: dict[str, Any]) -> Service:
        if not self._free:
            self._end(next(iter(self._services)))
        folder: Path = self._folders.mktemp("kept")
        service = Service(self._free[-1], folder, **options).__enter__()
        self._free.pop()
        return service

    def _end(self, name: str) -> None:
        service = self._services.pop(name)
        self._free.append(service.env["REDIS_URL"])
        service.__exit__()


def _end_executions(service: Service) -> None:
    if not service.workers:
        return  # nothing runs, and the store is emptied before its next use
    for status in ("pending", "running"):
        body = service.get("/executions", params={"status": status, "page_size": 100}).json()
        for execution in body["executions"]:
            service.cancel(execution["execution_id"])
            service.ended(execution["execution_id"])
