"""Real parts for every test: an embedded store for each test process, gunicorn and workers where asked for.

`TEST_REDIS_SERVER` names another server binary than the embedded Valkey.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

SERVER = os.environ.get("TEST_REDIS_SERVER") or None


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """One server for all tests of this process that do not harm it."""
    server = EmbeddedStore(tmp_path_factory.mktemp("store"), binary=SERVER, durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_client(store_server: EmbeddedStore) -> Iterator[redis.Redis]:
    """A client of an empty store. Database 1: the shared service lives in 0."""
    with redis.Redis.from_url(store_server.url, db=1) as client:
        client.flushdb()
        yield client


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A server that this test alone uses, may kill, freeze and start again; its data is on disk."""
    server = EmbeddedStore(tmp_path / "store", binary=SERVER)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def service(store_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A whole service with the shipped targets and the tests' own (`tests/agents`), shared by many tests."""
    with Service(store_server.url, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def make_service(store_server: EmbeddedStore, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services of this test's own, in a database of their own unless a `redis_url` is given."""
    started: list[Service] = []

    def make(redis_url: str | None = None, **options: object) -> Service:
        if redis_url is None:
            redis_url = f"{store_server.url.removesuffix('/0')}?db=2"
            with redis.Redis.from_url(store_server.url, db=2) as client:
                client.flushdb()
        folder = tmp_path / f"service{len(started)}"
        folder.mkdir()
        started.append(Service(redis_url, folder, **options))  # type: ignore[arg-type]
        return started[-1].__enter__()

    yield make
    for each in started:
        each.__exit__(None, None, None)
