"""Faults: each test has a store, a proxy and a service of its own, which it may break.

Leases are shorter than in production (3 s instead of 12), so that what takes a lease takes little time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.proxy import Proxy
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

LEASE_SECONDS = 3.0


@pytest.fixture
def proxy(own_store: EmbeddedStore) -> Iterator[Proxy]:
    with Proxy(own_store.url.removeprefix("unix://")) as running:
        yield running


@pytest.fixture
def broken(make_service: Callable[..., Service], proxy: Proxy) -> Callable[..., Service]:
    """Makes a service that reaches its store through the proxy."""
    return lambda **options: make_service(proxy.url, **{"LEASE": LEASE_SECONDS, **options})


def children_of(pid: int) -> list[psutil.Process]:
    """The processes that run flows for this worker."""
    return [each for each in psutil.Process(pid).children(recursive=True) if each.name() == "exec-flows"]


def ticks(path: Path) -> list[tuple[int, int, float]]:
    """Attempt, pid and time of each line that the flow `tick` wrote."""
    if not path.exists():
        return []
    rows = (line.split() for line in path.read_text().splitlines())
    return [(int(attempt), int(pid), float(at)) for attempt, pid, at in rows if at]
