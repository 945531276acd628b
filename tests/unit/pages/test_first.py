"""What the empty list proposes to start."""

from __future__ import annotations

import json

from app.catalog.inputs import check_inputs
from app.catalog.model import Agent, Catalog, InputField, Pipeline, PromptFlow, PythonFlow, Step
from app.pages.first import proposal
from app.settings import ROOT

PROMPT = PromptFlow("default", "Say {text}")
CODE = PythonFlow("default", "flow.py:run", ROOT, isolation="thread")


def agent(id: str, flow: PromptFlow | PythonFlow, *inputs: InputField) -> Agent:
    return Agent(id, {"default": flow}, "default", inputs=inputs)


def pipeline(id: str, *agents: str) -> Pipeline:
    steps = tuple(Step(f"s{name}", f"o{name}", agent=name) for name in agents)
    return Pipeline(id, steps, (), "thread")


def catalog(*targets: Agent | Pipeline) -> Catalog:
    return Catalog(
        {target.id: target for target in targets if isinstance(target, Agent)},
        {target.id: target for target in targets if isinstance(target, Pipeline)},
    )


def test_a_pipeline_is_better_than_an_agent_if_it_needs_no_model() -> None:
    code, prompt = agent("code", CODE), agent("prompt", PROMPT)
    assert proposal(catalog(code, pipeline("p", "code"))).target_id == "p"
    assert proposal(catalog(code, prompt, pipeline("p", "code", "prompt"))).target_id == "code"
    assert proposal(catalog(prompt, pipeline("p", "prompt"))).target_id == "p"


def test_without_targets_nothing_is_proposed() -> None:
    assert proposal(catalog()) is None


def test_the_inputs_that_are_proposed_are_accepted() -> None:
    kinds = ("any", "string", "integer", "number", "boolean", "array", "object")
    inputs = [InputField(kind, kind, required=True) for kind in kinds]
    inputs += [InputField("optional"), InputField("given", required=True, default=5)]
    proposed = proposal(catalog(agent("code", CODE, *inputs)))
    assert set(proposed.inputs) == set(kinds)
    assert check_inputs(tuple(inputs), proposed.inputs) == []
    assert json.loads(proposed.body)["inputs"] == proposed.inputs
