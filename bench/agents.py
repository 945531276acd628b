"""Writes the agents that the benchmarks run: one that returns its inputs, one that waits, one that asks a model."""

from __future__ import annotations

from pathlib import Path

FLOW = """
import time

def run(inputs):
    time.sleep(inputs.get("seconds", 0))
    return inputs
"""


def write(folder: Path) -> Path:
    """The folder for AGENTS_PATH."""
    for name, isolation in (("in_process", "process"), ("in_thread", "thread")):
        agent = folder / name
        agent.mkdir(parents=True)
        (agent / "flow.py").write_text(FLOW)
        (agent / "agent.yaml").write_text(
            f'flows: [{{name: default, entrypoint: "flow.py:run", isolation: {isolation}}}]\n'
        )
    asks = folder / "asks"
    (asks / "prompts").mkdir(parents=True)
    (asks / "agent.yaml").write_text("flows: [{name: default, file: ask.yaml}]\n")
    (asks / "prompts" / "ask.yaml").write_text("user_template: '{question}'\n")
    (folder.parent / "pipelines").mkdir(exist_ok=True)
    return folder
