"""A process of threads hangs: the worker replaces it and runs its other executions again, without
counting the lost attempt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.faults.conftest import LEASE_SECONDS, children_of
from tests.hostile.neighbours import unharmed
from tests.support.agents import write_agent
from tests.support.service import Service

Make = Callable[..., Service]

FLOW = """
import asyncio, ctypes, os, re, signal, time
from pathlib import Path

def run(inputs, context):
    Path(inputs["begun"]).touch()
    if inputs["do"] == "regex":
        re.match(r"(a+)+$", "a" * 40 + "b")
    if inputs["do"] == "lock":
        ctypes.PyDLL(None).usleep(60_000_000)
    while inputs["do"] == "stop":  # its worker may wake it, after an outage of the store, say
        os.kill(os.getpid(), signal.SIGSTOP)
    if inputs["do"] == "wait":
        while not context.cancelled:
            time.sleep(0.02)
    return "did it"

async def wait(inputs, context):
    if inputs["do"] == "regex":
        Path(inputs["begun"]).touch()
        re.match(r"(a+)+$", "a" * 40 + "b")
    await asyncio.sleep(inputs["seconds"])
    return "waited"
"""
AGENT = """
flows:
  - {name: thread, entrypoint: "flow.py:run", isolation: thread}
  - {name: process, entrypoint: "flow.py:run"}
  - {name: wait, entrypoint: "flow.py:wait", isolation: thread}
"""


@pytest.fixture
def make(make_service: Make, tmp_path: Path) -> Make:
    write_agent(tmp_path / "agents", "holds", AGENT, FLOW)
    return lambda **options: make_service(
        agents=tmp_path / "agents", **{"WORKER_THREADS": 20, **options}
    )


def begin(service: Service, tmp_path: Path, do: str, flow: str = "thread", **config: Any) -> str:
    """Returns when it holds its process."""
    begun = tmp_path / f"begun-{time.time_ns()}"
    inputs = {"do": do, "begun": str(begun), "seconds": 0}
    id = service.start("holds", inputs, config={"flow_id": flow, **config})
    deadline = time.monotonic() + 30
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return id


def events(service: Service, name: str) -> list[dict[str, Any]]:
    lines = [
        json.loads(line) for line in service.output("worker0").splitlines() if line.startswith("{")
    ]
    return [line for line in lines if line["event"] == name]


@pytest.mark.parametrize("do", ["regex", "lock", "stop"])
@pytest.mark.timeout(240)
def test_a_flow_that_holds_its_process_fails_alone(make: Make, tmp_path: Path, do: str) -> None:
    """What runs beside it, and what is started meanwhile, completes by its first attempt."""
    service = make()
    beside = [
        service.start("behaves", {"do": "listen", "seconds": 2}, config={"flow_id": "thread"}),
        service.start("holds", {"do": "wait", "seconds": 2}, config={"flow_id": "wait"}),
    ]
    for id in beside:
        service.until(id, "running")
    holds = begin(service, tmp_path, do)
    with unharmed(service, "thread"):
        pass
    for id in beside:
        ended = service.ended(id, seconds=60)
        assert (ended["status"], ended["attempt"]) == ("completed", 1), ended
    ended = service.ended(holds, seconds=90)
    assert (ended["status"], ended["error"]["type"], ended["attempt"]) == (
        "failed",
        "Unresponsive",
        1,
    )
    first, *_ = events(service, "child_hung")
    assert holds in first["runs"]
    if do == "regex":
        assert any("flow.py" in place and "run" in place for place in first["at"]), first
        assert "flow.py" in ended["error"]["message"]


@pytest.mark.timeout(240)
def test_a_task_that_holds_the_loop_in_c_fails_alone(make: Make, tmp_path: Path) -> None:
    service = make()
    waits = service.start("holds", {"do": "wait", "seconds": 2}, config={"flow_id": "wait"})
    listens = service.start("behaves", {"do": "listen", "seconds": 2}, config={"flow_id": "thread"})
    for id in (waits, listens):
        service.until(id, "running")
    holds = begin(service, tmp_path, "regex", flow="wait")
    for id in (waits, listens):
        ended = service.ended(id, seconds=90)
        assert (ended["status"], ended["attempt"]) == ("completed", 1), ended
    assert service.ended(holds, seconds=90)["error"]["type"] == "Unresponsive"


@pytest.mark.parametrize("do", ["regex", "lock", "stop"])
@pytest.mark.timeout(120)
def test_a_cancel_in_a_process_that_hangs_is_said_when_the_run_is_over(
    make: Make, tmp_path: Path, do: str
) -> None:
    service = make(CANCEL_GRACE=0.2)
    before = {process.pid for process in children_of(service.workers[0].pid)}
    holds = begin(service, tmp_path, do)
    service.cancel(holds)
    assert service.ended(holds, seconds=90)["status"] == "cancelled"
    computing = [
        process.pid
        for process in psutil.process_iter()
        if process.pid in before
        and len(process.threads()) > 3
        and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert computing == []


@pytest.mark.timeout(120)
def test_a_timeout_in_a_process_that_hangs_is_that_runs_alone(make: Make, tmp_path: Path) -> None:
    service = make()
    beside = service.start(
        "behaves", {"do": "listen", "seconds": 1}, config={"flow_id": "thread", "timeout": 3}
    )
    service.until(beside, "running")
    holds = begin(service, tmp_path, "regex")
    ended = service.ended(beside, seconds=60)
    assert (ended["status"], ended["attempt"]) == ("completed", 1), ended
    assert service.ended(holds, seconds=60)["error"]["type"] == "Unresponsive"


@pytest.mark.parametrize("deaths", [0, 2], ids=["beside others", "alone, after crashes"])
def test_a_flow_in_a_process_may_compute_for_as_long_as_its_timeout(
    make: Make, deaths: int
) -> None:
    service = make(workers=0, CHILD_HUNG_SECONDS=1)
    id = service.start(
        "behaves", {"do": "hold_the_lock", "seconds": 4}, config={"flow_id": "process"}
    )
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        client.hset(f"rq:job:{id}", "deaths", deaths)
    service.start_worker()
    ended = service.ended(id, seconds=60)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)
    assert events(service, "child_hung") == []


@pytest.mark.timeout(120)
def test_a_process_that_hangs_has_no_slots(make: Make, tmp_path: Path) -> None:
    """Only its successor counts, and what runs alone has none."""
    service = make(WORKER_THREADS=7, WORKER_PROCESSES=0, LEASE=LEASE_SECONDS)
    holds = begin(service, tmp_path, "stop")
    seen = set()
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        while service.status(holds)["status"] != "failed":
            seen |= {slots.split(b"/")[1] for slots in client.hvals("exec:slots")}
            time.sleep(0.05)
    assert len(events(service, "child_hung")) >= 1
    assert b"7" in seen
    assert seen <= {b"0", b"7"}
    assert (
        service.run("behaves", {"do": "echo"}, config={"flow_id": "thread"})["status"]
        == "completed"
    )


@pytest.mark.timeout(120)
def test_a_worker_that_sleeps_as_a_whole_takes_nobody_for_hung(make: Make) -> None:
    """Neither does one whose children alone were slow for a while, or frozen for less than the
    limit.
    """
    service = make(CHILD_HUNG_SECONDS=3, LEASE=60)
    id = service.start("behaves", {"do": "listen", "seconds": 9}, config={"flow_id": "thread"})
    service.until(id, "running")
    family = psutil.Process(service.workers[0].pid)
    for process in (family, *family.children(recursive=True)):
        process.suspend()
    time.sleep(5)
    for process in (family, *family.children(recursive=True)):
        process.resume()
    ended = service.ended(id)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)
    assert events(service, "child_hung") == []


@pytest.mark.timeout(120)
def test_threads_that_take_turns_with_the_interpreter_do_not_hang(make: Make) -> None:
    """Each has so little of it that the one that answers hardly has its turn."""
    service = make(CHILD_HUNG_SECONDS=3, WORKER_THREADS=80)
    ids = [
        service.start("behaves", {"do": "swallow"}, config={"flow_id": "thread", "timeout": 9})
        for _ in range(60)
    ]
    for id in ids:
        assert service.ended(id, seconds=90)["error"]["type"] == "Timeout"
    assert events(service, "child_hung") == []
