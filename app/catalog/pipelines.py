"""Reads one pipeline: its file becomes a `Pipeline`, once `graph` has found nothing wrong in it.

`loader` calls `read_pipeline` for each file, after all agents are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.catalog import graph, sources, step_types
from app.catalog.documents import Place, Problem, read
from app.catalog.model import Agent, Flow, Output, Pipeline, PythonFlow, Source, Step
from app.catalog.pipeline_schemas import PipelineSchema
from app.catalog.targets import described, hash_of_data, id_problems, input_fields

_PIPELINE = PipelineSchema()

# The keys of a step that have the same name and meaning in `Step` and in the file.
_COPIED_KEYS = (
    *("id", "output_key", "type", "flow", "input_mapping", "required", "when", "model_override"),
    *("batch_mode", "concurrent", "max_workers", "description"),
)


def read_pipeline(path: Path, agents: Mapping[str, Agent]) -> Pipeline:
    """The pipeline of one file. Raises `ConfigurationError` with a line for each problem."""
    document = read(path)
    data = document.validated(_PIPELINE)
    for step in data["steps"]:
        step.setdefault("output_key", step["id"])
    problems = [*id_problems(data, path.stem, "file"), *_read_sources(data)]
    problems = problems or [*_problems(data, agents)]
    # Types are looked at along the graph, so it must be known to be one.
    found = [] if problems else [*step_types.findings(data, agents)]
    problems += [(place, message) for place, message, is_sure in found if is_sure]
    if problems:
        raise document.error(problems)
    doubts = document.lines(
        [
            *((place, message) for place, message, _ in found),
            *(graph.key_doubts(data["steps"]) if data["inputs"] is None else ()),
        ]
    )
    return _pipeline(path.stem, data, agents, doubts)


def _read_sources(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Makes a `Source` of each entry of the steps' `input_mapping`."""
    keys = {step["output_key"] for step in data["steps"]}
    keys |= {field["name"] for field in data["inputs"] or ()}
    for position, step in enumerate(data["steps"]):
        for name, written in step["input_mapping"].items():
            try:
                step["input_mapping"][name] = sources.read(written, keys)
            except sources.BadPath as error:
                yield ("steps", position, "input_mapping", name), str(error)


def _problems(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[Problem]:
    inputs = None
    if data["inputs"] is not None:
        inputs = {field["name"] for field in data["inputs"]}
    outputs = [output["key"] for output in data["outputs"]]
    yield from graph.problems(data["steps"], inputs, outputs)
    yield from graph.agent_problems(data["steps"], agents)
    yield from _variant_problems(data, agents)


def _variant_problems(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[Problem]:
    steps = {step["id"]: step for step in data["steps"]}
    for name, variant in data["variants"].items():
        for step_id, override in variant["overrides"].items():
            place: Place = ("variants", name, "overrides", step_id)
            if step_id not in steps:
                yield place, graph.no_such("step", step_id, steps)
                continue
            if steps[step_id]["type"] != "agent_flow":
                yield place, f"The step {step_id!r} runs no agent, so it has nothing to override."
                continue
            # An unknown agent is already reported, for the step itself.
            agent = agents.get(steps[step_id]["agent"])
            if agent and agent.flow(override.get("flow")) is None:
                yield (*place, "flow"), graph.no_flow(agent, override["flow"])


def _pipeline(
    id: str, data: Mapping[str, Any], agents: Mapping[str, Agent], warnings: tuple[str, ...]
) -> Pipeline:
    steps = data["steps"]
    depends_on = graph.dependencies(steps)
    labels = {output["key"]: output["label"] for output in data["outputs"]}
    output_keys = graph.result_keys(steps, list(labels))
    flows = list(_all_flows(data, agents))
    return Pipeline(
        id=id,
        steps=tuple(_step(step, depends_on[step["id"]]) for step in steps),
        outputs=tuple(Output(key, labels.get(key, "")) for key in output_keys),
        # One flow that needs a process, or a fresh one, makes the whole run need it: all steps of
        # a pipeline run in one process.
        isolation="thread" if all(flow.isolation == "thread" for flow in flows) else "process",
        fresh=any(isinstance(flow, PythonFlow) and flow.fresh for flow in flows),
        inputs=input_fields(data["inputs"]),
        variants={name: variant["overrides"] for name, variant in data["variants"].items()},
        definition_hash=hash_of_data(_what_is_run(data)),
        warnings=warnings,
        **described(data),
    )


def _what_is_run(data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a pipeline's file that change its results: all but the texts for people."""
    return {
        "inputs": [{**field, "desc": ""} for field in data["inputs"] or ()],
        "steps": [
            {**step, "description": "", "input_mapping": _definitions(step["input_mapping"])}
            for step in data["steps"]
        ],
        "outputs": [output["key"] for output in data["outputs"]],
        "variants": {name: variant["overrides"] for name, variant in data["variants"].items()},
    }


def _definitions(mapping: Mapping[str, Source]) -> dict[str, Any]:
    return {name: source.definition for name, source in mapping.items()}


def _step(data: Mapping[str, Any], depends_on: frozenset[str]) -> Step:
    return Step(
        depends_on=depends_on,
        agent=data.get("agent"),
        batch_over=data.get("batch_over"),
        timeout_seconds=data["timeout"],
        retries=data["retries"]["max"],
        backoff_seconds=tuple(data["retries"]["backoff_seconds"]),
        on_error=data.get("on_error", "warn"),
        aggregation=_aggregation(data) if data["type"] == "batch_aggregator" else {},
        **{key: data[key] for key in _COPIED_KEYS},
    )


def _aggregation(data: Mapping[str, Any]) -> dict[str, Any]:
    optional = ("separator", "condition", "group_by", "summary_fields")
    given = {key: data[key] for key in optional if key in data}
    return {"strategy": data["aggregation_strategy"], "fields": data["fields_"], **given}


def _all_flows(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[Flow]:
    """Every flow that a run can reach, with any variant."""
    variants = data["variants"].values()
    for step in data["steps"]:
        if step["type"] != "agent_flow":
            continue
        overrides = [variant["overrides"].get(step["id"], {}) for variant in variants]
        names = {override["flow"] for override in overrides if "flow" in override}
        for name in {step["flow"], *names}:
            flow = agents[step["agent"]].flow(name)
            assert flow is not None
            yield flow
