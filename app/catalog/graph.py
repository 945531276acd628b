"""What makes a pipeline's graph sound, checked before a `Pipeline` is built: a wrong one can not be built.

Works on the steps as their schema leaves them. Reading files and building values is `pipelines`' business.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from app.catalog import conditions
from app.catalog.documents import Problem
from app.catalog.model import Agent

Steps = Sequence[Mapping[str, Any]]


def dependencies(steps: Steps) -> dict[str, frozenset[str]]:
    """What each step waits for: what it names, and the steps whose output it or its `when` reads."""
    producer = {step["output_key"]: step["id"] for step in steps}
    return {
        step["id"]: frozenset(step["depends_on"])
        | {producer[key] for key in _reads(step) if key in producer}
        for step in steps
    }


def result_keys(steps: Steps, declared: Sequence[str]) -> list[str]:
    """The keys that the execution returns: the declared ones; else those that no step reads."""
    read = {key for step in steps for key in _reads(step)}
    return list(declared) or [
        step["output_key"] for step in steps if step["output_key"] not in read
    ]


def problems(
    steps: Steps, inputs: Collection[str] | None, outputs: Sequence[str]
) -> Iterator[Problem]:
    """Everything that is wrong with names, keys and order; nothing where the graph is sound.

    `inputs` and `outputs` are the declared names. Inputs of None are not declared: any key may be one.
    """
    yield from _repeated(steps, "id")
    yield from _repeated(steps, "output_key")
    yield from _name_problems(steps)
    yield from _key_problems(steps, inputs)
    yield from _output_problems(steps, outputs)
    yield from _cycles(steps)


def _reads(step: Mapping[str, Any]) -> frozenset[str]:
    own = frozenset(step["input_mapping"].values())
    return own | conditions.reads(step["when"]) if step["when"] is not None else own


def _repeated(steps: Steps, name: str) -> Iterator[Problem]:
    counts = Counter(step[name] for step in steps)
    for position, step in enumerate(steps):
        if counts[step[name]] > 1:
            yield ("steps", position, name), f"Two steps have the {name} {step[name]!r}."


def _name_problems(steps: Steps) -> Iterator[Problem]:
    ids = {step["id"] for step in steps}
    for position, step in enumerate(steps):
        for name in step["depends_on"]:
            if name not in ids:
                yield ("steps", position, "depends_on"), f"There is no step {name!r}."


def _key_problems(steps: Steps, inputs: Collection[str] | None) -> Iterator[Problem]:
    if inputs is None:
        return
    known = {step["output_key"] for step in steps} | set(inputs)
    nobodys = "is neither an input of the pipeline nor the output_key of a step."
    for position, step in enumerate(steps):
        if step["output_key"] in inputs:
            yield (
                ("steps", position, "output_key"),
                f"{step['output_key']!r} is an input of the pipeline already.",
            )
        for name, key in step["input_mapping"].items():
            if key not in known:
                yield ("steps", position, "input_mapping", name), f"{key!r} {nobodys}"
        for key in sorted(_reads(step) - known - set(step["input_mapping"].values())):
            yield ("steps", position, "when"), f"{key!r} {nobodys} Text stands in 'single quotes'."


def _output_problems(steps: Steps, outputs: Sequence[str]) -> Iterator[Problem]:
    keys = {step["output_key"] for step in steps}
    for position, key in enumerate(outputs):
        if key not in keys:
            yield ("outputs", position, "key"), f"No step has the output_key {key!r}."
    if "metadata" in result_keys(steps, outputs):
        place = ("outputs", list(outputs).index("metadata"), "key") if outputs else ("steps",)
        yield place, "An output can not be called 'metadata': that name is the service's."


def _cycles(steps: Steps) -> Iterator[Problem]:
    waits_for = dependencies(steps)
    for position, step in enumerate(steps):
        if step["id"] in waits_for[step["id"]]:
            yield ("steps", position), f"The step {step['id']!r} waits for itself."
    others = {id: names - {id} for id, names in waits_for.items()}
    try:
        graphlib.TopologicalSorter(others).prepare()
    except graphlib.CycleError as error:
        yield ("steps",), f"The steps wait for each other: {' -> '.join(reversed(error.args[1]))}."


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
            yield ("steps", position, "flow"), no_flow(agent, step["flow"])
        yield from _mapping_problems(position, step, agent)


def no_flow(agent: Agent, name: str) -> str:
    """The sentence for a flow that an agent does not have."""
    return f"The agent {agent.id!r} has no flow {name!r}; it has: {', '.join(sorted(agent.flows))}."


def _mapping_problems(position: int, step: Mapping[str, Any], agent: Agent) -> Iterator[Problem]:
    if agent.inputs is None:
        return
    names = sorted(each.name for each in agent.inputs)
    for name in step["input_mapping"]:
        if name not in names:
            message = f"The agent {agent.id!r} has no input {name!r}; it has: {', '.join(names) or 'none'}."
            yield ("steps", position, "input_mapping", name), message
    for each in agent.inputs:
        if each.needed and each.name not in step["input_mapping"]:
            message = f"The input {each.name!r} of the agent {agent.id!r} is required."
            yield ("steps", position, "input_mapping"), message
