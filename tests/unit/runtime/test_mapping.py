"""Constants and parts of values as inputs of steps: in runs, batches, conditions and resumption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import catalog
from app.domain.execution import StepStatus
from app.runtime.errors import RunFailed
from tests.support.agents import write_agent
from tests.support.runtime import Recorder

AGENT = """
flows:
  - {name: default, entrypoint: "flow.py:run", isolation: thread}
  - {name: takes, entrypoint: "flow.py:takes", isolation: thread}
"""

FLOW = """
from pathlib import Path

def run(inputs):
    if (Path(__file__).parent / "broken").exists() and inputs.get("breaks"):
        raise ValueError("broken")
    return inputs

def takes(inputs):
    return [inputs["items"].pop(), inputs["x"]]
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Runs the steps of a pipeline without declared inputs; `.recorder` has what was stored."""
    write_agent(tmp_path / "agents", "work", AGENT, FLOW)
    (tmp_path / "pipelines").mkdir()

    def run_it(steps: str, inputs: dict[str, Any], recorder: Recorder | None = None) -> Any:
        (tmp_path / "pipelines/p.yaml").write_text(f"steps:\n{steps}\n")
        known = catalog.load([tmp_path / "agents"], [tmp_path / "pipelines"])
        run_it.recorder = recorder or Recorder()  # type: ignore[attr-defined]
        return run_it.recorder.run(known, "p", inputs)  # type: ignore[attr-defined]

    return run_it


ARTICLE = {"article": {"title": "T", "sections": [{"name": "one"}, {"name": "two"}], "0": "zero"}}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{value: formal}", "formal"),
        ("{value: {a: [1, null]}}", {"a": [1, None]}),
        ("{value: null}", None),
        ("{from: article.title}", "T"),
        ("{from: 'article.sections[0].name'}", "one"),
        ("{from: article.sections.1.name}", "two"),
        ("{from: 'article.sections[-1]'}", {"name": "two"}),
        ("{from: article.0}", "zero"),
        ("{from: article}", ARTICLE["article"]),
        ("{from: nothing.at.all}", None),
    ],
)
def test_a_step_gets_a_constant_or_a_part_of_a_value(
    run: Callable[..., Any], source: str, value: Any
) -> None:
    steps = f"- id: a\n  agent: work\n  input_mapping:\n    x: {source}"
    assert run(steps, ARTICLE)["a"] == {"x": value}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("article.titel", "article has no 'titel'"),
        ("article.sections[2].name", "article.sections has no item 2: it has 2 items"),
        ("article.sections[-3]", "article.sections has no item -3: it has 2 items"),
        ("article.title.first", "article.title is of the type string, not an object"),
        ("article[0]", "article is of the type object, not a list"),
        ("article.sections.name", "article.sections is of the type array, not an object"),
    ],
)
def test_a_part_that_is_missing_fails_the_step_by_name_and_path(
    run: Callable[..., Any], path: str, reason: str
) -> None:
    with pytest.raises(RunFailed) as failed:
        run(f"- {{id: a, agent: work, input_mapping: {{x: {{from: '{path}'}}}}}}", ARTICLE)
    failure = failed.value.failure
    assert failure.type == "FlowError"
    assert failure.message == f"The input 'x' of the step 'a' is mapped to {path}, but {reason}."
    assert failure.details["step_id"] == "a"


def test_a_step_that_may_fail_may_also_lack_a_part(run: Callable[..., Any]) -> None:
    steps = (
        "- {id: a, agent: work, input_mapping: {x: {from: article.none}}, required: false}\n"
        "- {id: b, agent: work, input_mapping: {x: {from: a.x}}}"
    )
    assert run(steps, ARTICLE)["b"] == {"x": None}
    assert run.recorder.records["a"].status is StepStatus.FAILED  # type: ignore[attr-defined]


def test_each_item_of_a_batch_gets_the_constants_and_its_own_copy_of_them(
    run: Callable[..., Any],
) -> None:
    steps = (
        "- {id: a, agent: work, flow: takes, batch_mode: true, batch_over: x, input_mapping:"
        " {x: {from: article.sections}, items: {value: [1, 2]}}}"
    )
    assert run(steps, ARTICLE)["a"] == [[2, {"name": "one"}], [2, {"name": "two"}]]


def test_a_batch_of_two_lists_says_how_to_choose_one(run: Callable[..., Any]) -> None:
    steps = "- {id: a, agent: work, batch_mode: true, input_mapping: {x: l, y: m}%s}"
    with pytest.raises(RunFailed, match=r"found x, y\. Name the one to run over: batch_over: x"):
        run(steps % "", {"l": [1], "m": [2, 3]})
    chosen = run(steps % ", batch_over: y", {"l": [1], "m": [2, 3]})
    assert chosen["a"] == [{"x": [1], "y": 2}, {"x": [1], "y": 3}]
    with pytest.raises(RunFailed, match="names 'y', which needs a list; m is of the type string"):
        run(steps % ", batch_over: y", {"l": [1], "m": "text"})


def test_conditions_and_aggregators_see_what_a_path_leads_to(run: Callable[..., Any]) -> None:
    steps = (
        "- {id: a, agent: work, input_mapping: {x: {from: article.title}}}\n"
        "- {id: b, agent: work, when: a.x == 'T', input_mapping: {y: {value: 1}}}\n"
        "- {id: j, type: batch_aggregator, aggregation_strategy: summary, summary_fields: [name],"
        " input_mapping: {items: {from: article.sections}}, when: b.y}"
    )
    assert run(steps, ARTICLE)["j"] == [{"name": "one"}, {"name": "two"}]


def test_a_later_attempt_reads_the_parts_of_what_was_stored(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    steps = (
        "- {id: a, agent: work, input_mapping: {x: article}}\n"
        "- {id: b, agent: work, input_mapping: {title: {from: a.x.title}, breaks: {value: true}}}"
    )
    broken = tmp_path / "agents/work/broken"
    broken.touch()
    recorder = Recorder()
    with pytest.raises(RunFailed, match="broken"):
        run(steps, ARTICLE, recorder)
    assert json.loads(recorder.values["a"]) == {"x": ARTICLE["article"]}
    broken.unlink()
    assert run(steps, ARTICLE, recorder)["b"] == {"title": "T", "breaks": True}
    assert recorder.records["a"].attempt == 1
