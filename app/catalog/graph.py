"""Checks the graph of a pipeline: names, keys, order, and what the steps ask of their agents.

`pipelines` calls it before it builds a `Pipeline`, so that a wrong one cannot be built. The steps
are still the mappings that `PipelineSchema` has loaded from the file, but `input_mapping` already
has a `Source` for each input.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from app.catalog import conditions
from app.catalog.documents import Place, Problem
from app.catalog.fields import MAX_SUGGESTIONS
from app.catalog.model import Agent, Source
from app.catalog.sources import BadPath, read
from app.catalog.suggestions import did_you_mean

Steps = Sequence[Mapping[str, Any]]


def dependencies(steps: Steps) -> dict[str, frozenset[str]]:
    """For each step, the steps that must finish first.

    These are the ones in its `depends_on`, and those whose output the step or its `when` reads.
    """
    producers = {step["output_key"]: step["id"] for step in steps}
    return {
        step["id"]: frozenset(step["depends_on"])
        | {producers[key] for key in _keys_read(step) if key in producers}
        for step in steps
    }


def result_keys(steps: Steps, declared: Sequence[str]) -> list[str]:
    """The output keys that the execution returns: the declared ones, else those no step reads."""
    if declared:
        return list(declared)
    read = {key for step in steps for key in _keys_read(step)}
    return [step["output_key"] for step in steps if step["output_key"] not in read]


def problems(
    steps: Steps, inputs: Collection[str] | None, outputs: Sequence[str]
) -> Iterator[Problem]:
    """Everything that is wrong with names, keys and order within the pipeline.

    `inputs` and `outputs` are the declared names. If `inputs` is None, any key can be an input.
    """
    yield from _duplicates(steps, "id")
    yield from _duplicates(steps, "output_key")
    yield from _unknown_dependencies(steps)
    yield from _key_problems(steps, inputs)
    yield from _output_problems(steps, outputs)
    yield from _cycles(steps)


def _keys_read(step: Mapping[str, Any]) -> frozenset[str]:
    sources = step["input_mapping"].values()
    keys = frozenset(source.key for source in sources if source.key is not None)
    return keys if step["when"] is None else keys | conditions.reads(step["when"])


def _duplicates(steps: Steps, name: str) -> Iterator[Problem]:
    counts = Counter(step[name] for step in steps)
    for position, step in enumerate(steps):
        if counts[step[name]] > 1:
            yield ("steps", position, name), f"Two steps have the same {name} {step[name]!r}."


def _unknown_dependencies(steps: Steps) -> Iterator[Problem]:
    ids = {step["id"] for step in steps}
    for position, step in enumerate(steps):
        for name in step["depends_on"]:
            if name not in ids:
                yield ("steps", position, "depends_on"), no_such("step", name, ids)


def _key_problems(steps: Steps, inputs: Collection[str] | None) -> Iterator[Problem]:
    if inputs is None:
        return
    known = {step["output_key"] for step in steps} | set(inputs)
    for position, step in enumerate(steps):
        place = ("steps", position)
        output_key = step["output_key"]
        if output_key in inputs:
            message = f"{output_key!r} is already the name of an input. Choose another output_key."
            yield (*place, "output_key"), message
        for name, source in step["input_mapping"].items():
            if source.key is not None and source.key not in known:
                yield (*place, "input_mapping", name), _unknown_key(source, known)
        if step["when"] is None:
            continue
        for key in sorted(conditions.reads(step["when"]) - known):
            # It is often a text in double quotes, which JMESPath takes for a name.
            near = did_you_mean(key, known) or " Write text in 'single quotes'."
            yield (*place, "when"), f"{key!r} {_UNKNOWN}{near}"


def key_doubts(steps: Steps) -> Iterator[Problem]:
    """Keys that look like a misspelled output_key, in a pipeline that takes any input."""
    outputs = {step["output_key"] for step in steps}
    places: dict[str, Place] = {}
    for position, step in enumerate(steps):
        for name, source in step["input_mapping"].items():
            if source.key is not None and source.key not in outputs:
                places.setdefault(source.key, ("steps", position, "input_mapping", name))
    for key in list(places)[:MAX_SUGGESTIONS]:
        if near := did_you_mean(key, outputs, _KEY_SIMILARITY):
            message = f"{key!r} counts as an input, since this pipeline declares none.{near}"
            yield places[key], message


# Inputs and outputs of one pipeline often have similar names (`text`, `texts`).
_KEY_SIMILARITY = 0.8

_UNKNOWN = "is neither an input of the pipeline nor the output_key of a step."


def _unknown_key(source: Source, known: Collection[str]) -> str:
    """The message for a source whose key is unknown, with what was probably meant."""
    key = str(source.key)
    try:
        part = read({"from_": key}, known)
    except BadPath:
        part = source
    if not source.path and part.path and part.key in known:
        near = f" For a part of {part.key!r}, write {{from: {part}}}."
    else:
        near = did_you_mean(key, known) or f" For a constant, write {{value: {key}}}."
    return f"{key!r} {_UNKNOWN}{near}"


def _output_problems(steps: Steps, outputs: Sequence[str]) -> Iterator[Problem]:
    keys = {step["output_key"] for step in steps}
    for position, key in enumerate(outputs):
        if key not in keys:
            near = did_you_mean(key, keys)
            yield ("outputs", position, "key"), f"No step has the output_key {key!r}.{near}"
    # The service adds `metadata` to the outputs of every execution. As the key of a step that
    # another one reads, the name does no harm.
    if "metadata" in result_keys(steps, outputs):
        place = ("outputs", list(outputs).index("metadata"), "key") if outputs else ("steps",)
        yield place, "An output cannot be called 'metadata': the service uses that name itself."


def _cycles(steps: Steps) -> Iterator[Problem]:
    depends_on = dependencies(steps)
    for position, step in enumerate(steps):
        if step["id"] in depends_on[step["id"]]:
            yield ("steps", position), f"The step {step['id']!r} depends on itself."
    # Without the self-dependencies, which are reported by now: TopologicalSorter stops at its
    # first cycle, and a larger one would go unnoticed.
    others = {id: ids - {id} for id, ids in depends_on.items()}
    try:
        graphlib.TopologicalSorter(others).prepare()
    except graphlib.CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        yield ("steps",), f"The steps depend on each other in a cycle: {cycle}."


def agent_problems(steps: Steps, agents: Mapping[str, Agent]) -> Iterator[Problem]:
    """Checks the steps against the agents that they name: flows and inputs."""
    for position, step in enumerate(steps):
        if step["type"] != "agent_flow":
            continue
        agent = agents.get(step["agent"])
        if agent is None:
            yield ("steps", position, "agent"), no_such("agent", step["agent"], agents)
            continue
        if agent.flow(step["flow"]) is None:
            yield ("steps", position, "flow"), no_flow(agent, step["flow"])
        yield from _mapping_problems(position, step, agent)


def no_such(noun: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that nothing has, with the nearest one."""
    return f"There is no {noun} {name!r}.{did_you_mean(name, known)}"


def no_flow(agent: Agent, name: str) -> str:
    """The message for a flow that an agent does not have."""
    names = ", ".join(sorted(agent.flows))
    near = did_you_mean(name, agent.flows)
    return f"The agent {agent.id!r} has no flow {name!r}. Its flows are: {names}.{near}"


def _mapping_problems(position: int, step: Mapping[str, Any], agent: Agent) -> Iterator[Problem]:
    if agent.inputs is None:
        return
    place = ("steps", position, "input_mapping")
    names = sorted(field.name for field in agent.inputs)
    inputs = f"Its inputs are: {', '.join(names)}." if names else "It takes no inputs."
    for name in step["input_mapping"]:
        if name not in names:
            near = did_you_mean(name, names)
            yield (*place, name), f"The agent {agent.id!r} has no input {name!r}. {inputs}{near}"
    for field in agent.inputs:
        if field.needed and field.name not in step["input_mapping"]:
            yield place, f"The agent {agent.id!r} requires the input {field.name!r}: map it here."
