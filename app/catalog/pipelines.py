"""From a pipeline file to a `Pipeline`, once its graph is known to be sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.catalog import graph
from app.catalog.documents import Place, Problem, read
from app.catalog.model import Agent, Flow, Output, Pipeline, PythonFlow, Step
from app.catalog.schemas import PipelineSchema
from app.catalog.targets import described, id_problems, input_fields, version_of

_PIPELINE = PipelineSchema()

_AS_THEY_ARE = (
    *("id", "output_key", "type", "flow", "input_mapping", "required", "when", "model_override"),
    *("batch_mode", "concurrent", "max_workers", "description"),
)
"""The keys of a step that mean in `Step` what they mean in the file."""


def read_pipeline(path: Path, agents: Mapping[str, Agent]) -> Pipeline:
    """The pipeline of one file. Raises `ConfigurationError` with a line for each problem."""
    document = read(path)
    data = document.checked(_PIPELINE)
    for step in data["steps"]:
        step.setdefault("output_key", step["id"])
    problems = [*id_problems(data, path.stem, "file"), *_problems(data, agents)]
    if problems:
        raise document.refusal(problems)
    return _built(path.stem, data, agents)


def _problems(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[Problem]:
    names = None if data["inputs"] is None else {each["name"] for each in data["inputs"]}
    yield from graph.problems(data["steps"], names, [each["key"] for each in data["outputs"]])
    yield from graph.agent_problems(data["steps"], agents)
    yield from _variant_problems(data, agents)


def _variant_problems(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[Problem]:
    steps = {step["id"]: step for step in data["steps"]}
    for name, variant in data["variants"].items():
        for step_id, override in variant["overrides"].items():
            place: Place = ("variants", name, "overrides", step_id)
            if step_id not in steps:
                yield place, f"There is no step {step_id!r}."
                continue
            if steps[step_id]["type"] != "agent_flow":
                yield place, f"The step {step_id!r} runs no agent, so there is nothing to override."
                continue
            agent = agents.get(steps[step_id]["agent"])
            if agent and agent.flow(override.get("flow")) is None:
                yield (*place, "flow"), graph.no_flow(agent, override["flow"])


def _built(id: str, data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Pipeline:
    waits_for = graph.dependencies(data["steps"])
    labels = {each["key"]: each["label"] for each in data["outputs"]}
    flows = list(_all_flows(data, agents))
    return Pipeline(
        id=id,
        steps=tuple(_step(step, waits_for[step["id"]]) for step in data["steps"]),
        outputs=tuple(
            Output(key, labels.get(key, ""))
            for key in graph.result_keys(data["steps"], list(labels))
        ),
        isolation="thread" if all(flow.isolation == "thread" for flow in flows) else "process",
        fresh=any(isinstance(flow, PythonFlow) and flow.fresh for flow in flows),
        inputs=input_fields(data["inputs"]),
        variants={name: variant["overrides"] for name, variant in data["variants"].items()},
        definition=version_of(_without_words_for_people(data)),
        **described(data),
    )


def _without_words_for_people(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is run, of a pipeline's file."""
    return {
        "inputs": [{**each, "desc": ""} for each in data["inputs"] or ()],
        "steps": [{**each, "description": ""} for each in data["steps"]],
        "outputs": [each["key"] for each in data["outputs"]],
        "variants": {name: variant["overrides"] for name, variant in data["variants"].items()},
    }


def _step(data: Mapping[str, Any], depends_on: frozenset[str]) -> Step:
    return Step(
        depends_on=depends_on,
        agent=data.get("agent"),
        timeout_seconds=data["timeout"],
        retries=data["retries"]["max"],
        backoff_seconds=tuple(data["retries"]["backoff_seconds"]),
        on_error=data.get("on_error", "warn"),
        aggregation=_aggregation(data) if data["type"] == "batch_aggregator" else {},
        **{name: data[name] for name in _AS_THEY_ARE},
    )


def _aggregation(data: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        name: data[name]
        for name in ("separator", "condition", "group_by", "summary_fields")
        if name in data
    }
    return {"strategy": data["aggregation_strategy"], "fields": data["fields_"], **given}


def _all_flows(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[Flow]:
    """Every flow that a run may come to, in any variant."""
    for step in data["steps"]:
        if step["type"] != "agent_flow":
            continue
        overrides = (
            variant["overrides"].get(step["id"], {}) for variant in data["variants"].values()
        )
        for name in {step["flow"], *(each["flow"] for each in overrides if "flow" in each)}:
            flow = agents[step["agent"]].flow(name)
            assert flow is not None
            yield flow
