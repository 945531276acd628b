"""Runs small flows whose source a test contains, without a worker."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import catalog
from tests.support.runtime import Recorder


@pytest.fixture
def run_code(tmp_path: Path) -> Callable[..., Any]:
    """`run_code(source, inputs, flow="run", **ports)`: the outputs of that flow of the source."""
    recorder = Recorder()

    def run(
        source: str, inputs: dict[str, Any] | None = None, flow: str = "run", **ports: Any
    ) -> Any:
        number = len(list(tmp_path.glob("agents*")))
        folder = tmp_path / f"agents{number}" / "coded"
        folder.mkdir(parents=True)
        (folder / "flow.py").write_text(textwrap.dedent(source))
        (folder / "agent.yaml").write_text(f'flows: [{{name: main, entrypoint: "flow.py:{flow}"}}]')
        pipelines = tmp_path / f"pipelines{number}"
        pipelines.mkdir()
        (pipelines / "line.yaml").write_text("steps: [{id: only, agent: coded}]")
        known = catalog.load([folder.parent], [pipelines])
        target = ports.pop("target", "coded")
        return recorder.run(known, target, inputs or {}, **ports)

    run.recorder = recorder  # type: ignore[attr-defined]
    return run
