"""Asynchronous flows without an `isolation`: they wait side by side in one event loop, and one that
blocks it harms no other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.test_hung import events
from tests.support.agents import write_agent
from tests.support.pace import until
from tests.support.service import Service

Make = Callable[..., Service]

FLOW = """
import asyncio, time
from pathlib import Path

async def wait(inputs):
    while not Path(inputs["gate"]).exists():
        await asyncio.sleep(0.05)
    return "waited"

async def block(inputs):
    with Path(inputs["marks"]).open("a") as marks:
        marks.write("begun\\n")
    while not Path(inputs["gate"]).exists():
        time.sleep(0.05)
    return "blocked"

async def deaf(inputs):
    while not Path(inputs["gate"]).exists():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass
    return "heard nothing"
"""
AGENT = """
flows:
  - {name: wait, entrypoint: "flow.py:wait"}
  - {name: block, entrypoint: "flow.py:block"}
  - {name: deaf, entrypoint: "flow.py:deaf"}
"""


@pytest.fixture
def make(make_service: Make, tmp_path: Path) -> Make:
    write_agent(tmp_path / "agents", "waits", AGENT, FLOW)
    return lambda **options: make_service(
        agents=tmp_path / "agents",
        **{"WORKER_THREADS": 30, "WORKER_PROCESSES": 1, "CHILD_HUNG_SECONDS": 1, **options},
    )


def start(service: Service, flow: str, gate: Path, **config: Any) -> str:
    inputs = {"gate": str(gate), "marks": f"{gate}-marks"}
    return service.start("waits", inputs, config={"flow_id": flow, **config})


def ends(service: Service, id: str) -> tuple[str, int, Any]:
    ended = service.ended(id, seconds=60)
    return ended["status"], ended["attempt"], ended.get("outputs", {}).get("output")


@pytest.mark.timeout(120)
def test_flows_that_wait_do_so_together(make: Make, tmp_path: Path) -> None:
    service, gate = make(), tmp_path / "gate"
    ids = [start(service, "wait", gate) for _ in range(20)]
    until(lambda: all(service.status(id)["status"] == "running" for id in ids))
    gate.touch()
    assert [ends(service, id) for id in ids] == [("completed", 1, "waited")] * 20


@pytest.mark.timeout(120)
def test_a_flow_that_blocks_the_loop_goes_on_alone(make: Make, tmp_path: Path) -> None:
    service, gate, later = make(), tmp_path / "gate", tmp_path / "later"
    waits = start(service, "wait", gate)
    service.until(waits, "running")
    blocks = start(service, "block", later)
    until(lambda: events(service, "child_hung"))
    gate.touch()
    assert ends(service, waits) == ("completed", 1, "waited")
    until(lambda: Path(f"{later}-marks").read_text().count("begun") == 2)
    later.touch()
    assert ends(service, blocks) == ("completed", 1, "blocked")
    [hung] = events(service, "child_hung")
    assert set(hung["runs"]) == {waits, blocks}
    assert any("flow.py" in place and "block" in place for place in hung["at"]), hung


@pytest.mark.timeout(120)
def test_one_that_blocks_the_loop_for_nobody_else_is_not_run_again(
    make: Make, tmp_path: Path
) -> None:
    """What starts meanwhile gets another process."""
    service, gate, later = make(), tmp_path / "gate", tmp_path / "later"
    blocks = start(service, "block", later)
    until(lambda: [line for line in events(service, "child_retired") if line["why"] == "loop_held"])
    gate.touch()
    assert ends(service, start(service, "wait", gate)) == ("completed", 1, "waited")
    later.touch()
    assert ends(service, blocks) == ("completed", 1, "blocked")
    assert Path(f"{later}-marks").read_text().count("begun") == 1


@pytest.mark.timeout(120)
def test_a_cancel_ends_the_process_of_one_that_blocks_the_loop(make: Make, tmp_path: Path) -> None:
    service = make(CANCEL_GRACE=0.2)
    blocks = start(service, "block", tmp_path / "never")
    until(lambda: [line for line in events(service, "child_retired") if line["why"] == "loop_held"])
    [retired] = [line for line in events(service, "child_retired") if line["why"] == "loop_held"]
    assert psutil.pid_exists(retired["pid"])
    service.cancel(blocks)
    assert service.ended(blocks, seconds=60)["status"] == "cancelled"
    until(lambda: not psutil.pid_exists(retired["pid"]))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_flow_that_is_deaf_to_its_end_is_ended_all_the_same(
    make: Make, tmp_path: Path, how: str
) -> None:
    service, gate = make(CANCEL_GRACE=0.2), tmp_path / "gate"
    waits = start(service, "wait", gate)
    deaf = start(service, "deaf", tmp_path / "never", **{"timeout": 1} if how == "timeout" else {})
    service.until(deaf, "running")
    if how == "cancel":
        assert service.cancel(deaf).status_code == 200
    ended = service.ended(deaf, seconds=60)
    assert ended["status"] == ("cancelled" if how == "cancel" else "failed")
    gate.touch()
    assert ends(service, waits) == ("completed", 1, "waited")
