"""Fixtures of all tests: a real store for each test process, and real services.

`TEST_REDIS_SERVER` names a server binary to use in place of the embedded Valkey.
"""

from __future__ import annotations

import compileall
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from playwright.sync_api import Browser, Page

from tests.support.browser import CHROMIUM, MISSING, opened_browser, opened_page
from tests.support.kept import KeptServices
from tests.support.model_server import ModelServer
from tests.support.schedule import SlowestFirst, rank
from tests.support.service import ROOT, Service
from tools.embedded_store import EmbeddedStore

SERVER = os.environ.get("TEST_REDIS_SERVER") or None
SHARED, KEPT = pytest.StashKey[Service](), pytest.StashKey[KeptServices]()

# Hundreds of processes read the same modules, so these are compiled once and kept, whatever the
# environment says. The services write no bytecode, as in the image, so a flow that a test rewrites
# is compiled again.
sys.dont_write_bytecode = False
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # once, not in each process of pytest-xdist
        compileall.compile_dir(ROOT / "app", quiet=2)


def pytest_collection_finish() -> None:
    sys.dont_write_bytecode = True  # modules that a test writes are compiled each time


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return SlowestFirst(config, log) if config.getvalue("dist") == "load" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """One server, shared by all tests of this process that do not break it."""
    folder = tmp_path_factory.mktemp("store")
    server = EmbeddedStore(folder, binary=SERVER, durable=False, end_signal=signal.SIGKILL)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_client(store_server: EmbeddedStore) -> Iterator[redis.Redis]:
    """A client of an empty store: database 1, because the shared service uses database 0."""
    with redis.Redis.from_url(store_server.url, db=1) as client:
        client.flushdb()
        yield client


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A server of this test's own, which it may kill, freeze and restart; its data is on disk."""
    server = EmbeddedStore(tmp_path / "store", binary=SERVER, end_signal=signal.SIGKILL)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def service(
    store_server: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Service]:
    """A whole service with the included targets and those of `tests/agents`.

    All tests of this process share it.
    """
    with Service(store_server.url, tmp_path_factory.mktemp("service")) as running:
        request.config.stash[SHARED] = running
        yield running


def pytest_runtest_setup(item: pytest.Item) -> None:
    if service := item.config.stash.get(SHARED, None):
        service.begin_test()
    if kept := item.config.stash.get(KEPT, None):
        kept.begin_test(item.path.parent)


@pytest.fixture(scope="session")
def kept_services(
    store_server: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[KeptServices]:
    with KeptServices(store_server, tmp_path_factory) as kept:
        request.config.stash[KEPT] = kept
        yield kept


@pytest.fixture
def shared_service(
    kept_services: KeptServices, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Service]]:
    """`shared_service(workers=0, ...)` returns a service with an empty store.

    Later tests with the same options get the same service. So use it only in tests that do not
    break or stop it, and do not depend on everything it has logged or counted since its start.
    """
    taken: list[Service] = []

    def take(**options: object) -> Service:
        taken.append(kept_services.take(**options))
        return taken[-1]

    failures = request.session.testsfailed
    yield take
    for service in taken:
        kept_services.give_back(service, failed=request.session.testsfailed > failures)


@pytest.fixture(scope="module")
def shared_model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def model(shared_model: ModelServer) -> ModelServer:
    shared_model.begin()
    return shared_model


@pytest.fixture
def make_service(store_server: EmbeddedStore, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """`make_service(...)` starts a service for this test alone.

    Its store is an emptied database, unless a `redis_url` is given.
    """
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
    for service in started:
        service.__exit__(None, None, None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser, for the tests of one file: while it is open, none may call `asyncio.run`."""
    if not CHROMIUM:
        pytest.skip(MISSING)
    with opened_browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of that browser, with cookies and storage of its own."""
    with opened_page(browser) as opened:
        yield opened
