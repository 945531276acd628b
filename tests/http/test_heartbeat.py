"""A running execution shows when its worker last reported that it is alive."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import pytest

from tests.support.service import Service


@pytest.mark.parametrize("query", ["", "?include=steps"])
def test_the_last_heartbeat_of_a_running_execution_is_shown_and_moves_on(
    shared_service: Callable[..., Service], query: str
) -> None:
    service = shared_service(LEASE=3)
    id = service.start("behaves", {"do": "sleep", "seconds": 60})
    began = datetime.fromisoformat(service.until(id, "running")["started_at"])
    deadline = time.monotonic() + 30
    while True:
        shown = service.get(f"/executions/{id}{query}").json()
        at = datetime.fromisoformat(shown["last_heartbeat_at"])
        assert at >= began
        if (at - began).total_seconds() > 1:
            break
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
    assert (datetime.now(at.tzinfo) - at).total_seconds() < 30
    service.cancel(id)
    assert "last_heartbeat_at" not in service.ended(id)
