"""What makes a pipeline's graph sound, checked before a `Pipeline` is built: a wrong one can not be built."""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from app.catalog.documents import Place
from app.catalog.model import Agent, InputField

Steps = Sequence[Mapping[str, Any]]

Problem = tuple[Place, str]


def dependencies(steps: Steps) -> dict[str, frozenset[str]]:
    """What each step waits for: what it names, and the steps whose output it reads."""
    producer = {step["output_key"]: step["id"] for step in steps}
    return {
        step["id"]: frozenset(step["depends_on"])
        | {producer[key] for key in step["input_mapping"].values() if key in producer}
        for step in steps
    }


def problems(steps: Steps, inputs: Iterable[str] | None, outputs: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """Everything that is wrong with names, keys and order; nothing where the graph is sound."""
    yield from _repeated(steps, "id")
    yield from _repeated(steps, "output_key")
    ids, keys = {step["id"] for step in steps}, {step["output_key"] for step in steps}
    for position, step in enumerate(steps):
        for name in step["depends_on"]:
            if name not in ids:
                yield ("steps", position, "depends_on"), f"There is no step {name!r}."
        for to, source in step["input_mapping"].items():
            if inputs is not None and source not in keys and source not in inputs:
                message = f"{source!r} is neither an input nor the output_key of a step."
                yield ("steps", position, "input_mapping", to), message
    for position, output in enumerate(outputs):
        if output["key"] not in keys:
            yield ("outputs", position, "key"), f"No step has the output_key {output['key']!r}."
        if output["key"] == "metadata":
            yield ("outputs", position, "key"), "An output can not be called 'metadata': that name is the service's."
    yield from _cycle(steps)


def _repeated(steps: Steps, name: str) -> Iterator[Problem]:
    counts = Counter(step[name] for step in steps)
    for position, step in enumerate(steps):
        if counts[step[name]] > 1:
            yield ("steps", position, name if name in step else "id"), f"Two steps have the {name} {step[name]!r}."


def _cycle(steps: Steps) -> Iterator[Problem]:
    try:
        graphlib.TopologicalSorter(dependencies(steps)).prepare()
    except graphlib.CycleError as error:
        yield ("steps",), "The steps wait for each other: " + " -> ".join(reversed(error.args[1])) + "."


def agent_problems(steps: Steps, agents: Mapping[str, Agent]) -> Iterator[Problem]:
    """What is wrong between the steps and the agents they name."""
    for position, step in enumerate(steps):
        if step["type"] != "agent_flow":
            continue
        agent = agents.get(step["agent"])
        if agent is None:
            yield ("steps", position, "agent"), f"There is no agent {step['agent']!r}."
            continue
        if agent.flow(step["flow"]) is None:
            known = ", ".join(sorted(agent.flows))
            yield ("steps", position, "flow"), f"The agent {agent.id!r} has no flow {step['flow']!r}; it has: {known}."
        yield from _mapping_problems(position, step, agent.inputs)


def _mapping_problems(
    position: int, step: Mapping[str, Any], declared: tuple[InputField, ...] | None
) -> Iterator[Problem]:
    if declared is None:
        return
    names = {each.name for each in declared}
    for name in step["input_mapping"]:
        if name not in names:
            message = f"The agent {step['agent']!r} has no input {name!r}; it has: {', '.join(sorted(names))}."
            yield ("steps", position, "input_mapping", name), message
    for each in declared:
        if each.required and each.name not in step["input_mapping"]:
            message = f"The input {each.name!r} of the agent {step['agent']!r} is required."
            yield ("steps", position, "input_mapping"), message
