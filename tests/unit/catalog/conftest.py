"""Folders of agents and pipelines for a test, written in a line or two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from app.catalog import load
from app.catalog.model import Catalog


@dataclass(frozen=True)
class Files:
    """A folder of agents and one of pipelines."""

    root: Path

    @property
    def agents(self) -> Path:
        return self.root / "agents"

    @property
    def pipelines(self) -> Path:
        return self.root / "pipelines"

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def agent(self, id: str, more: str = "") -> Path:
        """An agent with one Python flow, `default`; `more` is YAML for its file."""
        self.write(f"agents/{id}/flow.py", "def run(inputs):\n    return inputs\n")
        flows = (
            ""
            if "flows:" in more
            else "flows:\n- {name: default, entrypoint: 'flow.py:run', isolation: thread}\n"
        )
        return self.write(f"agents/{id}/agent.yaml", flows + more)

    def pipeline(self, id: str, text: str) -> Path:
        return self.write(f"pipelines/{id}.yaml", text)

    def load(self) -> Catalog:
        return load([self.agents], [self.pipelines])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "agents").mkdir()
    (tmp_path / "pipelines").mkdir()
    return Files(tmp_path)
