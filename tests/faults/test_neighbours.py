"""One execution does the worst that a flow can do: the executions beside it complete.

`LONG_FAULTS=1` (`make faults`) runs it at full size: 2 GB leaked under the default limit, the
interpreter's lock held for 30 s. Otherwise the same takes a few seconds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.measure import LONG
from tests.support.pace import within
from tests.support.service import Service

Make = Callable[..., Service]

LEAK_BYTES, LEAK_LIMIT_BYTES = (2 * 1024**3, 1024**3) if LONG else (300_000_000, 200_000_000)
HOLD_SECONDS = 30 if LONG else 5  # more than the three seconds of a lease

BOTH = pytest.mark.parametrize("flow", ["process", "thread"])
LONG_TIMEOUT = pytest.mark.timeout(180)


@pytest.fixture
def service(broken: Make) -> Service:
    """Four threads in one process, three processes; what leaks more than the limit is replaced."""
    return broken(
        WORKER_PROCESSES=3,
        WORKER_THREADS=4,
        CANCEL_GRACE=0.2,
        PROCESS_MEMORY_LIMIT=LEAK_LIMIT_BYTES,
        CHILD_HUNG_SECONDS=3 * HOLD_SECONDS,
    )


@BOTH
@LONG_TIMEOUT
def test_a_leak_is_survived_by_all_neighbours_and_the_memory_comes_back(
    service: Service, flow: str
) -> None:
    beside = _neighbours(service)
    leaky = service.run("behaves", {"do": "leak", "bytes": LEAK_BYTES}, config={"flow_id": flow})
    assert leaky["status"] == "completed"
    _unharmed(service, beside)
    _gone(leaky["outputs"]["output"])
    _unharmed(service, _neighbours(service, seconds=0))


@BOTH
@LONG_TIMEOUT
def test_a_flow_that_holds_the_interpreters_lock_is_survived_by_all_neighbours(
    service: Service, flow: str
) -> None:
    """In a thread it stops the threads beside it for that long, but takes nobody's lease."""
    beside = _neighbours(service)
    holds = service.start(
        "behaves", {"do": "hold_the_lock", "seconds": HOLD_SECONDS}, config={"flow_id": flow}
    )
    service.until(holds, "running")
    began = time.monotonic()
    assert service.run("behaves", config={"flow_id": "process"})["status"] == "completed"
    assert time.monotonic() - began < within(HOLD_SECONDS / 2)
    _unharmed(service, [holds, *beside], seconds=HOLD_SECONDS + 20)


def test_a_thread_that_hangs_is_survived_by_all_neighbours(service: Service) -> None:
    beside = _neighbours(service)
    hangs = service.start("behaves", {"do": "sleep", "seconds": 60}, config={"flow_id": "thread"})
    service.until(hangs, "running")
    assert service.cancel(hangs).json()["data"]["status"] == "cancelled"
    _unharmed(service, beside)
    _unharmed(service, _neighbours(service, seconds=0))


@BOTH
def test_a_process_that_is_killed_is_survived_by_all_others(
    service: Service, tmp_path: Path, flow: str
) -> None:
    """What it ran itself is run again, and nobody waits for a lease."""
    marks = tmp_path / "marks"
    inside = {"do": "listen", "seconds": 2, "marks": str(marks)}
    victims = [
        service.start("behaves", inside, config={"flow_id": flow})
        for _ in range(2 if flow == "thread" else 1)
    ]
    others = _neighbours(service, flows=["process" if flow == "thread" else "thread", "process"])
    for id in (*victims, *others):
        service.until(id, "running")
    while not marks.exists() or not marks.read_text().endswith("\n"):
        time.sleep(0.01)
    killed_at = time.monotonic()
    os.kill(int(marks.read_text().split()[1]), signal.SIGKILL)
    for id in victims:
        ended = service.ended(id)
        assert (ended["status"], ended["attempt"]) == ("completed", 2)
        assert ended["attempts"][0]["outcome"] == "lost"
    assert time.monotonic() - killed_at < within(8)
    _unharmed(service, others)


def _neighbours(service: Service, seconds: float = 3, flows: list[str] | None = None) -> list[str]:
    """They run when this returns."""
    flows = flows or ["thread", "thread", "process"]
    ids = [
        service.start("behaves", {"do": "listen", "seconds": seconds}, config={"flow_id": flow})
        for flow in flows
    ]
    for id in ids:
        service.until(id, "running", "completed")
    return ids


def _unharmed(service: Service, ids: list[str], seconds: float = 30) -> None:
    """Each was completed by its first attempt."""
    for id in ids:
        ended = service.ended(id, seconds=seconds)
        assert (ended["status"], ended["attempt"]) == ("completed", 1)


def _gone(pid: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, f"process {pid} still lives"
        time.sleep(0.05)
