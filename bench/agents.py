"""Writes the agents and pipelines that the benchmarks run. `bench.stack` calls it for each stack.

`in_process` and `in_thread` return their inputs, after a sleep if asked; `asks` calls a model.
"""

from __future__ import annotations

from pathlib import Path

FLOW = """
import time

def run(inputs):
    if seconds := inputs.get("seconds"):
        time.sleep(seconds)
    return inputs
"""

CHAIN_STEPS = (1, 101)
"""The lengths of the chains of empty steps. The times of the two differ by a hundred steps."""


def write(folder: Path) -> Path:
    """Writes the agents below `folder` and returns it, for `AGENTS_PATH`."""
    for isolation in ("process", "thread"):
        agent = folder / f"in_{isolation}"
        agent.mkdir(parents=True)
        (agent / "flow.py").write_text(FLOW)
        (agent / "agent.yaml").write_text(
            f'flows: [{{name: default, entrypoint: "flow.py:run", isolation: {isolation}}}]\n'
        )
    asks = folder / "asks"
    (asks / "prompts").mkdir(parents=True)
    (asks / "agent.yaml").write_text("flows: [{name: default, file: ask.yaml}]\n")
    (asks / "prompts" / "ask.yaml").write_text("user_template: '{question}'\n")
    return folder


def write_pipelines(folder: Path) -> Path:
    """Writes chains of empty steps, each of which waits for the one before it.

    Returns the folder, for `PIPELINES_PATH`.
    """
    folder.mkdir(parents=True)
    for isolation in ("process", "thread"):
        for count in CHAIN_STEPS:
            steps = "\n".join(_step(number, isolation) for number in range(count))
            (folder / f"chain_{isolation}_{count}.yaml").write_text(
                f"inputs: [{{name: text}}]\nsteps:\n{steps}\n"
            )
    return folder


def _step(number: int, isolation: str) -> str:
    after = f"[s{number - 1}]" if number else "[]"
    return (
        f"  - {{id: s{number}, agent: in_{isolation}, input_mapping: {{text: text}}, "
        f"output_key: o{number}, depends_on: {after}}}"
    )
