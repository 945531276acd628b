"""Writes agents for tests that bring their own flows."""

from __future__ import annotations

from pathlib import Path


def write_agent(agents: Path, id: str, definition: str, flow: str) -> Path:
    """Writes `agent.yaml` and `flow.py` of a new agent below `agents`. Returns its folder."""
    folder = agents / id
    folder.mkdir(parents=True)
    (folder / "agent.yaml").write_text(definition)
    (folder / "flow.py").write_text(flow)
    return folder
