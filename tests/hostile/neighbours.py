"""The neighbours' view: honest executions that are started and followed to their end while an attack runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import requests

from tests.support.service import Service

COUNT = 10
TIMEOUT_SECONDS = 60


@contextmanager
def unharmed(service: Service, flow: str) -> Iterator[None]:
    """Ten of them, started while the attack goes on: every one completes by its first attempt, within its timeout."""
    with ThreadPoolExecutor(COUNT) as tenants:
        yield
        ended = list(tenants.map(lambda number: _run(service, flow, number), range(COUNT)))
    for number, one in enumerate(ended):
        assert (one["status"], one["attempt"]) == ("completed", 1), one
        assert one["outputs"]["output"]["number"] == number


def _run(service: Service, flow: str, number: int) -> dict[str, Any]:
    """By a connection of its own, as another client has."""
    inputs = {"do": "echo", "number": number}
    config = {"flow_id": flow, "timeout": TIMEOUT_SECONDS}
    tenant = copy.copy(service)
    with requests.Session() as tenant.http:
        return tenant.ended(tenant.start("behaves", inputs, config=config), seconds=2 * TIMEOUT_SECONDS)
