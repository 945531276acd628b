"""Flows with `isolation: fresh`: a new process for each run, beside flows that share theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.service import Service


@pytest.fixture
def service(make_service: Callable[..., Service], tmp_path: Path) -> Service:
    (tmp_path / "agents/once").mkdir(parents=True)
    (tmp_path / "agents/once/agent.yaml").write_text(
        'flows:\n  - {name: main, entrypoint: "flow.py:run", isolation: fresh}\n'
    )
    (tmp_path / "agents/once/flow.py").write_text(
        "import os\n\nruns = []\n\ndef run(inputs):\n    runs.append(1)\n    return [os.getpid(), len(runs)]\n"
    )
    return make_service(agents=tmp_path / "agents", WORKER_PROCESSES=2)


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
