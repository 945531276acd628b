"""Attacks by flows on their process and their worker: the runs of others continue."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.hostile.conftest import Town
from tests.hostile.neighbours import unharmed

pytestmark = pytest.mark.timeout(240)

HARM = {
    "use_up_files": "completed",
    "use_up_memory": "completed",
    "close_files": "failed",  # also the socket to its worker, as if the process had died
    "lower_limits": "completed",
    "slow_down": "completed",
    "replace": None,  # a run that removes its own builtins may end in any way
    "end_group": "completed",
    "log_much": "completed",
    "progress_much": "completed",
    "fork_in_a_chain": "completed",
    "exit": "failed",
}


@pytest.mark.parametrize("do", HARM)
def test_what_a_flow_does_to_its_process_harms_no_neighbour(town: Town, do: str) -> None:
    """Attacks twice, so that a harmed process is used again, or is replaced."""
    replaced = town.replaced
    with unharmed(town, "process", "thread"):
        attacks = [
            town.start("vandal", {"do": do}, config={"max_attempts": 1, "timeout": 40})
            for _ in range(2)
        ]
        ended = [town.ended(id, seconds=120) for id in attacks]
    if HARM[do]:
        assert {body["status"] for body in ended} == {HARM[do]}, [
            body.get("error") for body in ended
        ]
    assert town.replaced == replaced, "a worker has ended"


@pytest.mark.parametrize(
    "do", ["log_much", "progress_much", "lower_limits", "slow_down", "use_up_files"]
)
def test_what_it_does_in_one_process_with_them_harms_none_of_them(town: Town, do: str) -> None:
    with unharmed(town, "thread"):
        attacks = [
            town.start("vandal", {"do": do}, config={"flow_id": "thread", "timeout": 40})
            for _ in range(2)
        ]
        for id in attacks:
            town.ended(id, seconds=120)


def test_a_chain_of_forks_ends_with_its_run(town: Town, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.touch()
    assert (
        town.run("vandal", {"do": "fork_in_a_chain", "file": str(marks)})["status"] == "completed"
    )
    assert marks.stat().st_size > 0
    deadline = time.monotonic() + 10
    while True:
        before = marks.stat().st_size
        time.sleep(0.5)
        if marks.stat().st_size == before:
            break
        assert time.monotonic() < deadline, "the chain continues"


def test_a_flow_that_ends_its_worker_again_and_again_costs_no_neighbour_an_attempt(
    town: Town,
) -> None:
    replaced, until = town.replaced, time.monotonic() + 40
    with unharmed(town, "process", "thread"):
        attack = town.start("vandal", {"do": "end_worker"})
        while town.replaced < replaced + 3:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert town.cancel(attack).status_code in (200, 202)
    assert town.ended(attack, seconds=60)["status"] == "cancelled"
