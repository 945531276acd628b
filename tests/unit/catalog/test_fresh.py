"""`isolation: fresh`: a new process for each run, also for pipelines that can reach such a flow."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import catalog
from app.catalog.model import Catalog

AGENT = """
flows:
  - {name: used, entrypoint: "package.module:run"}
  - {name: new, entrypoint: "package.module:run", isolation: fresh}
  - {name: shared, entrypoint: "package.module:run", isolation: thread}
"""

PIPELINES = {
    "plain": "steps: [{id: a, agent: worker, flow: used}]",
    "fresh": "steps: [{id: a, agent: worker, flow: shared}, {id: b, agent: worker, flow: new}]",
    "by_variant": "steps: [{id: a, agent: worker, flow: shared}]\n"
    "variants: {other: {overrides: {a: {flow: new}}}}",
}


@pytest.fixture
def known(tmp_path: Path) -> Catalog:
    (tmp_path / "agents/worker").mkdir(parents=True)
    (tmp_path / "agents/worker/agent.yaml").write_text(AGENT)
    (tmp_path / "pipelines").mkdir()
    for name, text in PIPELINES.items():
        (tmp_path / "pipelines" / f"{name}.yaml").write_text(text)
    return catalog.load([tmp_path / "agents"], [tmp_path / "pipelines"])


def test_a_fresh_flow_runs_in_a_process(known: Catalog) -> None:
    flows = known.agents["worker"].flows
    assert {name: flow.isolation for name, flow in flows.items()} == {
        "used": "process",
        "new": "process",
        "shared": "thread",
    }
    assert [known.is_fresh("worker", name) for name in ("used", "new", "shared", None)] == [
        False,
        True,
        False,
        False,
    ]


def test_a_pipeline_that_can_reach_a_fresh_flow_is_fresh_as_a_whole(known: Catalog) -> None:
    assert {name: known.is_fresh(name, None) for name in PIPELINES} == {
        "plain": False,
        "fresh": True,
        "by_variant": True,
    }
    assert known.pipelines["by_variant"].isolation == "process"
