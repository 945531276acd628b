"""A batch on real workers: its items move the bar, and a budget and a cancel end it between two."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.agents import write_agent
from tests.support.service import Service

Make = Callable[..., Service]

KINDS = ["process", "thread", "waits"]

AGENT = """
flows:
  - {name: process, entrypoint: "flow.py:run"}
  - {name: thread, entrypoint: "flow.py:run", isolation: thread}
  - {name: waits, entrypoint: "flow.py:waits"}
"""

FLOW = """
import asyncio, time
from pathlib import Path

def begin(inputs):
    with Path(inputs["log"]).open("a") as log:
        log.write("begun\\n")

def is_held(inputs):
    return inputs["item"] == "hold" and not Path(inputs["log"] + ".go").exists()

def run(inputs):
    begin(inputs)
    while is_held(inputs):
        time.sleep(0.01)
    time.sleep(inputs.get("seconds") or 0)
    return "done"

async def waits(inputs):
    begin(inputs)
    while is_held(inputs):
        await asyncio.sleep(0.01)
    await asyncio.sleep(inputs.get("seconds") or 0)
    return "done"
"""

PIPELINE = """
inputs: [{{name: log}}, {{name: list}}, {{name: seconds}}]
steps:
  - {{id: first, agent: batched, flow: {kind}, input_mapping: {{log: log, item: log}}}}
  - {{id: items, agent: batched, flow: {kind}, batch_mode: true, concurrent: false,
     depends_on: [first], input_mapping: {{log: log, item: list, seconds: seconds}}}}
"""


@pytest.fixture
def service(make_service: Make, tmp_path: Path) -> Service:
    write_agent(tmp_path / "agents", "batched", AGENT, FLOW)
    (tmp_path / "pipelines").mkdir()
    for kind in KINDS:
        (tmp_path / f"pipelines/by_{kind}.yaml").write_text(PIPELINE.format(kind=kind))
    return make_service(
        agents=tmp_path / "agents", pipelines=tmp_path / "pipelines", CANCEL_GRACE=30
    )


def start(service: Service, kind: str, log: Path, items: list[str], **more: Any) -> str:
    inputs = {"log": str(log), "list": items, "seconds": more.pop("seconds", 0)}
    return service.start(f"by_{kind}", inputs, type="pipeline", config=more)


def progress(service: Service, id: str) -> dict[str, Any]:
    return dict(service.status(id).get("progress") or {"percentage": 0.0})


def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(120)
def test_items_move_the_bar_and_an_attempt_goes_on_from_them(
    service: Service, tmp_path: Path
) -> None:
    """In the store, RQ's tools see the same."""
    log = tmp_path / "log"
    id = start(service, "process", log, ["quick"] * 12 + ["hold"] + ["quick"] * 37)
    until(lambda: progress(service, id)["percentage"] == 62.0)
    shown = {
        "current_step": 1,
        "total_steps": 2,
        "percentage": 62.0,
        "current_step_name": "items",
    }
    assert progress(service, id) == shown
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        assert b'"progress":[1, 2, "items", 0.24]' in (client.hget(f"rq:job:{id}", "meta") or b"")
    service.workers[0].kill()  # with its children: the next one goes on
    service.start_worker()
    until(lambda: service.status(id)["attempt"] == 2)
    until(lambda: progress(service, id)["current_step"] == 1)
    assert progress(service, id) == shown  # from its first checkpoint on, before an item ends
    Path(f"{log}.go").touch()
    ended = service.ended(id, seconds=60)
    assert (ended["status"], ended["progress"]["percentage"]) == ("completed", 100.0)
    assert log.read_text().count("begun") == 1 + 50 + 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_of_seconds_ends_a_batch_between_two_items(
    service: Service, tmp_path: Path, kind: str
) -> None:
    log = tmp_path / "log"
    id = start(service, kind, log, ["quick"] * 1000, seconds=0.1, budget={"max_seconds": 1})
    ended = service.ended(id, seconds=90)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "BudgetExceeded"), ended
    assert ended["error"]["details"]["step_id"] == "items"
    kept = [output for output in ended["outputs_partial"]["items"] if output is not None]
    # Each item that was begun has ended, and is kept for a retry.
    assert log.read_text().count("begun") == 1 + len(kept)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cancel_ends_a_batch_before_its_next_item(
    service: Service, tmp_path: Path, kind: str
) -> None:
    """CANCEL_GRACE would let a flow that does not look at `cancelled` begin many more."""
    log = tmp_path / "log"
    id = start(service, kind, log, ["hold"] * 1000)
    until(lambda: log.exists() and log.read_text().count("begun") == 2)
    response = service.cancel(id)
    Path(f"{log}.go").touch()
    assert response.status_code in (200, 202)
    assert service.ended(id, seconds=60)["status"] == "cancelled"
    assert log.read_text().count("begun") == 2
