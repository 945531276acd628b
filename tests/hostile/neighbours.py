"""Honest tenants that start, follow and list executions while an attack runs.

Attacks run inside `with unharmed(service, ...)`, which fails if any tenant was affected.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.support.service import ENDED, Service

COUNT = 10
TIMEOUT_SECONDS = 60
KEYS = [f"the-key-of-honest-tenant-{number}" for number in range(COUNT)]
"""If a service requires no key, all of them are one tenant."""

POLL_SECONDS = 0.05
PAUSE_SECONDS = 0.2
RETRIES = 5

_owners: dict[str, int] = {}
"""Which of them started each execution."""


@contextmanager
def unharmed(service: Service, *flows: str) -> Iterator[None]:
    """Lets ten tenants run executions, one after the other, until the block ends.

    Every execution must complete in its first attempt, within its timeout. Each tenant runs at
    least one during the attack and one after it.
    """
    over = threading.Event()
    with ThreadPoolExecutor(COUNT) as pool:
        tenants = [pool.submit(_live, service, number, flows, over) for number in range(COUNT)]
        try:
            yield
        finally:
            over.set()
        for tenant in tenants:
            tenant.result()


def _live(service: Service, number: int, flows: tuple[str, ...], over: threading.Event) -> None:
    runs = 0
    with client_of(service, number) as tenant:
        is_last = False
        while not is_last:
            is_last = over.is_set()
            run(tenant, flows[(number + runs) % len(flows)], number)
            runs += 1
            over.wait(PAUSE_SECONDS)


@contextmanager
def client_of(service: Service, number: int) -> Iterator[Service]:
    """Yields the service with the connection and the key of one tenant.

    A busy machine may answer 503 during an attack. The client then tries again, `RETRIES` times.
    """
    tenant = copy.copy(service)
    retry = Retry(RETRIES, status_forcelist=[503], allowed_methods=None, raise_on_status=False)
    with requests.Session() as tenant.http:
        tenant.http.mount("http://", HTTPAdapter(max_retries=retry))
        tenant.http.headers["X-API-Key"] = KEYS[number]
        yield tenant


def run(tenant: Service, flow: str, number: int) -> str:
    """Runs one execution of one tenant, checks it and the tenant's list, and returns its id."""
    inputs = {"do": "echo", "number": number}
    id = tenant.start("behaves", inputs, config={"flow_id": flow, "timeout": TIMEOUT_SECONDS})
    _owners[id] = number
    ended = _followed(tenant, id)
    assert (ended["status"], ended["attempt"]) == ("completed", 1), ended
    assert ended["outputs"]["output"]["number"] == number
    listed = tenant.get("/executions?page_size=100")
    assert listed.status_code == 200, listed.text
    ids = [row["execution_id"] for row in listed.json()["executions"]]
    assert id in ids
    if "API_KEYS" in tenant.env:
        assert {_owners.get(listed_id, number) for listed_id in ids} == {number}
    return id


def _followed(tenant: Service, id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 2 * TIMEOUT_SECONDS
    while (body := tenant.status(id)).get("status") not in ENDED:
        assert time.monotonic() < deadline, body
        time.sleep(POLL_SECONDS)
    return body
