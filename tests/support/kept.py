"""Keeps services running for later tests, because a start takes most of a short test's time.

The fixture `shared_service` in `tests/conftest.py` uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

_DATABASES = range(8, 13)
"""Databases of the test process's store, one for each kept service. Others use the lower ones."""


class KeptServices:
    """One service for each set of options, each with its own database. Used with `with`."""

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
        """Ends the services of another folder's tests: tests here rarely need the same options."""
        if self._folder not in (None, folder):
            self.__exit__()
        self._folder = folder

    def take(self, **options: Any) -> Service:
        """Returns the service with these options, with an empty store. Starts it if needed."""
        name = repr(sorted(options.items()))
        service = self._services.pop(name, None) or self._start(options)
        self._services[name] = service  # as the last, so that it is ended last
        with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
            client.flushdb()
        service.begin_test()
        return service

    def give_back(self, service: Service, *, failed: bool) -> None:
        """Ends the test's executions. Stops the service instead if the test may have broken it."""
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
