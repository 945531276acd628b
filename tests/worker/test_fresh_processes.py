"""Flows with `isolation: fresh`: a new process for each run, beside flows that share theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.service import Service


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    agents = tmp_path_factory.mktemp("fresh")
    (agents / "once").mkdir()
    (agents / "once/agent.yaml").write_text(
        'flows:\n  - {name: main, entrypoint: "flow.py:run", isolation: fresh}\n'
    )
    (agents / "once/flow.py").write_text(
        "import os\n\nruns = []\n\ndef run(inputs):\n    runs.append(1)\n    return [os.getpid(), len(runs)]\n"
    )
    return agents


@pytest.fixture
def service(shared_service: Callable[..., Service], agents: Path) -> Service:
    return shared_service(agents=agents, WORKER_PROCESSES=2)


def test_each_run_has_a_process_that_has_run_nothing_before(service: Service) -> None:
    used = {service.run("behaves", {"do": "pid"})["outputs"]["output"] for _ in range(6)}
    ends = [service.run("once") for _ in range(4)]
    pids = {end["outputs"]["output"][0] for end in ends}
    assert [end["outputs"]["output"][1] for end in ends] == [1] * 4
    assert [end["attempt"] for end in ends] == [1] * 4
    assert len(pids) == 4
    assert not pids & used


def test_many_at_once_take_turns(service: Service) -> None:
    ids = [service.start("once") for _ in range(8)]
    outputs = [service.ended(id)["outputs"]["output"] for id in ids]
    assert len({pid for pid, _ in outputs}) == 8
    assert service.run("behaves", {"do": "echo"})["status"] == "completed"
