"""Constants, parts of values and `batch_over`, as a client of a running service meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.agents import write_agent
from tests.support.service import Service

PIPELINE = """
inputs: [{name: article, type: object, required: true}]
steps:
- {id: echo, agent: echo, input_mapping: {article: article}}
- id: lines
  agent: echo
  batch_mode: true
  batch_over: section
  input_mapping:
    section: {from: article.sections}
    tags: {from: echo.article.tags}
    tone: {value: formal}
"""


def test_a_pipeline_gets_constants_and_parts_or_says_what_is_missing(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    flows = "flows: [{name: default, entrypoint: 'flow.py:run'}]\n"
    write_agent(tmp_path / "agents", "echo", flows, "def run(inputs):\n    return inputs\n")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "parts.yaml").write_text(PIPELINE)
    service = make_service(agents=tmp_path / "agents", pipelines=tmp_path / "pipelines")
    article = {"sections": ["a", "b"], "tags": ["x", "y"]}
    ended = service.run("parts", {"article": article}, type="pipeline")
    assert ended["status"] == "completed", ended
    assert ended["outputs"]["lines"] == [
        {"section": section, "tags": ["x", "y"], "tone": "formal"} for section in ("a", "b")
    ]
    failed = service.run("parts", {"article": {"sections": ["a"]}}, type="pipeline")
    assert failed["error"]["type"] == "FlowError"
    assert failed["error"]["message"] == (
        "The input 'tags' of the step 'lines' is mapped to echo.article.tags,"
        " but echo.article has no 'tags'."
    )
    assert failed["error"]["details"]["step_id"] == "lines"
