"""A network that delays calls: those that were sent during an outage arrive after newer ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.support.pace import within
from tests.support.proxy import Proxy
from tests.support.service import Service

Make = Callable[..., Service]


def test_a_claim_that_arrives_late_costs_no_execution_an_attempt(
    broken: Make, proxy: Proxy, tmp_path: Path
) -> None:
    """The slot gets free during the outage, so a claim is sent into it, and given up."""
    service = broken(LEASE=12, WORKER_THREADS=0, WORKER_PROCESSES=1)
    for _ in range(3):
        service.run("behaves", {"do": "progress", "steps": 3, "pause": 0.05})
    first = service.start("behaves", {"do": "sleep", "seconds": 1.5})
    service.until(first, "running")
    time.sleep(1.2)
    proxy.lose_for(1.0, deliver_after_seconds=7.0)
    time.sleep(6.8)
    marks = [tmp_path / f"marks-{number}" for number in range(4)]
    ids = [
        service.start("behaves", {"do": "echo", "marks": str(path)}, config={"max_attempts": 1})
        for path in marks
    ]
    ends = [service.ended(id) for id in ids]
    assert [(end["status"], end["attempt"]) for end in ends] == [("completed", 1)] * 4
    assert all(path.read_text().count("begin") == 1 for path in marks)
    assert service.ended(first)["status"] == "completed"
    assert proxy.delivered_late > 0


def test_a_claim_whose_answer_was_lost_is_handed_back_before_its_lease_runs_out(
    broken: Make, proxy: Proxy
) -> None:
    service = broken(LEASE=60)
    service.run("behaves", {"do": "echo"})
    time.sleep(0.3)
    proxy.drop_after, proxy.mode = b"BLMOVE", "drop_answer"
    began = time.monotonic()
    ids = [service.start("behaves", {"do": "echo"}, config={"max_attempts": 1}) for _ in range(20)]
    for id in ids:
        ended = service.ended(id)
        assert (ended["status"], ended["attempt"]) == ("completed", 1)
    assert time.monotonic() - began < within(30)


def start_when_it_takes_it(service: Service, body: dict[str, object]) -> str:
    deadline = time.monotonic() + 20
    while (response := service.post("/executions", json=body)).status_code != 202:
        assert (response.status_code, time.monotonic() < deadline) == (503, True), response.text
        time.sleep(0.05)
    return str(response.json()["execution_id"])


def test_pipelines_that_meet_outages_run_no_finished_step_again(broken: Make, proxy: Proxy) -> None:
    """Their checkpoints are sent into outages, and arrive late, again and again."""
    service = broken(LEASE=12)
    ids = []
    for number in range(6):
        inputs = {"first": {"seconds": 0.3}, "second": {"seconds": 0.3 + number / 10}}
        ids.append(
            start_when_it_takes_it(
                service, {"type": "pipeline", "target_id": "relay", "inputs": inputs}
            )
        )
        proxy.lose_for(0.5, deliver_after_seconds=2.5)
        time.sleep(1.0)
    for id in ids:
        ended = service.ended(id)
        assert (ended["status"], ended["attempt"]) == ("completed", 1)
        steps = service.get(f"/executions/{id}/steps").json()["steps"]
        assert [(step["status"], step["attempt"]) for step in steps] == [("completed", 1)] * len(
            steps
        )
