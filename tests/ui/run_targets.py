"""Targets for the tests of the page of one execution: flows that log, wait, stream and fail."""

from __future__ import annotations

from pathlib import Path

from tests.support.agents import write_agent

HTML = "<script>document.title = 'broken'</script><img src=x onerror=alert(1)> & </div>"

AGENT = """
flows:
  - {name: does, entrypoint: "flow.py:does", isolation: thread}
  - {name: says, file: says.yaml}
"""

FLOW = '''
import time
from pathlib import Path


def does(inputs, context):
    """Waits until the file `until` exists; fails while the file `fails_until` does not."""
    inputs = {**inputs, **(inputs.get("work") or {})}
    for line in inputs.get("lines", []):
        context.log(line, page=3)
    if "answers" in inputs:
        context.complete(inputs["answers"], stream=True)
    _wait(inputs, context)
    if "fails_until" in inputs and not Path(inputs["fails_until"]).exists():
        raise ValueError(inputs.get("message", "It went wrong."))
    time.sleep(inputs.get("seconds", 0))
    if "letters" in inputs:
        return "<b>" * (inputs["letters"] // 3)
    return inputs.get("returns", "done")


def _wait(inputs, context):
    step = 0
    while "until" in inputs and not Path(inputs["until"]).exists() and not context.cancelled:
        step += 1
        context.progress(step, step + 20, f"page {step}")
        time.sleep(0.2)
'''

PIPELINE = """
name: Review
inputs: [{name: first, type: object}, {name: second, type: object}, {name: last, type: object}]
steps:
  - {id: read, agent: doer, flow: does, input_mapping: {work: first}}
  - {id: left, agent: doer, flow: does, input_mapping: {work: last}, depends_on: [read]}
  - id: right
    agent: doer
    flow: does
    input_mapping: {work: second}
    depends_on: [read]
    retries: {max: 10, backoff_seconds: [0.7]}
  - {id: report, agent: doer, flow: does, input_mapping: {work: last}, depends_on: [left, right]}
"""


def write_targets(folder: Path) -> tuple[Path, Path]:
    """Writes the agent `doer` and the pipeline `review`. Returns their two folders."""
    agents, pipelines = folder / "agents", folder / "pipelines"
    home = write_agent(agents, "doer", AGENT, FLOW)
    (home / "prompts").mkdir()
    (home / "prompts" / "says.yaml").write_text('user_template: "{text}"\nstream: true\n')
    pipelines.mkdir()
    (pipelines / "review.yaml").write_text(PIPELINE)
    return agents, pipelines
