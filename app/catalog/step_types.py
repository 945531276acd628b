"""Checks that the values of a pipeline fit where its steps use them: types, paths and batches.

`pipelines` calls `findings` once the graph is known to be right. What no run could survive is
refused. What only some runs survive is a warning: an optional value for a required input, say.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.catalog import graph, shapes
from app.catalog.documents import Place
from app.catalog.model import Agent, InputField, PromptFlow, Source
from app.catalog.prompts.compiler import names_needed
from app.catalog.prompts.scanner import is_formatted
from app.catalog.shapes import Shape
from app.catalog.sources import BadPath
from app.catalog.suggestions import did_you_mean

Finding = tuple[Place, str, bool]
"""Where something is wrong, what, and whether it is sure."""


def findings(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[Finding]:
    """What does not fit, in a run without a variant or with any of them; each finding once."""
    seen: set[tuple[Place, bool]] = set()
    for name, flows in _runs(data, agents).items():
        checked = _Run(data, agents, flows)
        places = set(seen)  # one place may have several findings in one run
        for place, message, is_sure in checked.findings():
            if (place, is_sure) not in places:
                seen.add((place, is_sure))
                suffix = f" This is so in the variant {name!r}." if name else ""
                yield place, message + suffix, is_sure


def _runs(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> dict[str, dict[str, str]]:
    """By variant ("" for none), the flow that each step runs. Only variants that change flows."""
    flows = {step["id"]: step["flow"] for step in data["steps"]}
    runs, known = {"": flows}, {tuple(flows.values())}
    for name, variant in data["variants"].items():
        changes = {id: over["flow"] for id, over in variant["overrides"].items() if "flow" in over}
        changed = {**flows, **changes}
        if tuple(changed.values()) not in known:
            known.add(tuple(changed.values()))
            runs[name] = changed
    return runs


@dataclass(slots=True)
class _Run:
    """One pass through the steps, in an order in which each finds the shapes that it reads."""

    data: Mapping[str, Any]
    agents: Mapping[str, Agent]
    flows: Mapping[str, str | None]
    known: dict[str, Shape] = field(default_factory=dict)
    """The shape of each input and output, by key."""
    nulls: dict[str, str] = field(default_factory=dict)
    """Why the value of a key may be null."""

    def findings(self) -> Iterator[Finding]:
        for declared in self.data["inputs"] or ():
            self.known[declared["name"]] = shapes.of_input(declared["type"])
            if not declared["required"] and declared.get("default") is None:
                self.nulls[declared["name"]] = "an optional input of the pipeline without a default"
        steps = {step["id"]: (at, step) for at, step in enumerate(self.data["steps"])}
        order = graphlib.TopologicalSorter(graph.dependencies(self.data["steps"]))
        for id in order.static_order():
            at, step = steps[id]
            yield from self._step(("steps", at), step)

    def _step(self, place: Place, step: Mapping[str, Any]) -> Iterator[Finding]:
        given: dict[str, Shape] = {}
        for name, source in step["input_mapping"].items():
            at = (*place, "input_mapping", name)
            try:
                given[name], doubts = self._shape(source)
            except BadPath as error:
                given[name], doubts = shapes.ANYTHING, []
                yield at, str(error), True
            yield from ((at, doubt, False) for doubt in doubts)
        if step["type"] == "agent_flow":
            yield from self._agent_step(place, step, given)
        else:
            yield from _aggregator(place, given["items"])
            self._end(step, shapes.of_aggregation(step, given["items"]))

    def _shape(self, source: Source) -> tuple[Shape, list[str]]:
        """The shape of a source, and doubts about its path. Raises `BadPath`."""
        if source.key is None:
            return shapes.of_constant(source.value), []
        shape = self.known.get(source.key, shapes.ANYTHING)
        doubts: list[str] = []
        for position, segment in enumerate(source.path):
            place = str(Source(source.key, source.path[:position]))
            shape, doubt = shapes.part(shape, segment, place)
            doubts += [doubt] if doubt else []
        return shape, doubts

    def _agent_step(
        self, place: Place, step: Mapping[str, Any], given: dict[str, Shape]
    ) -> Iterator[Finding]:
        agent = self.agents[step["agent"]]
        flow = agent.flow(self.flows[step["id"]])
        made = shapes.of_flow(flow) if flow else shapes.ANYTHING
        if agent.inputs is None and isinstance(flow, PromptFlow):
            yield from _gaps(place, step, flow)
        unsure: set[str] = set()
        if step["batch_mode"]:
            yield from _batch(place, step, given)
            lists = _possible_lists(step, given)
            if len(lists) == 1:
                given[lists[0]] = shapes.item(given[lists[0]])
            else:
                unsure = set(lists)  # nobody knows which of them gives its items
            made = {"type": "array", "items": made}
        for declared in agent.inputs or ():
            if declared.name in given and declared.name not in unsure:
                yield from self._input(place, step, agent, declared, given[declared.name])
        self._end(step, made)

    def _input(
        self,
        place: Place,
        step: Mapping[str, Any],
        agent: Agent,
        declared: InputField,
        shape: Shape,
    ) -> Iterator[Finding]:
        at = (*place, "input_mapping", declared.name)
        source: Source = step["input_mapping"][declared.name]
        about = f"The input {declared.name!r} of the agent {agent.id!r}"
        known = shapes.types(shape)
        if known == frozenset(["null"]):
            if declared.needed:
                yield at, f"{about} is required, so it cannot be null.", True
        elif known and declared.type != "any":
            for message, is_sure in _compared(declared, source, known):
                yield at, f"{about} is of the type {declared.type}, but {message}", is_sure
        reason = self.nulls.get(source.key or "")
        if reason and declared.needed and step["when"] is None and not step["batch_mode"]:
            message = f"{about} is required, but {source.key!r} is {reason}."
            yield at, f"{message} If it is null, this step fails.", False

    def _end(self, step: Mapping[str, Any], shape: Shape) -> None:
        key = step["output_key"]
        self.known[key] = shape
        if not step["required"]:
            self.nulls[key] = "the output of a step that is not required"
        elif step["when"] is not None:
            self.nulls[key] = "the output of a step that may be skipped"


def _compared(
    declared: InputField, source: Source, known: frozenset[str]
) -> Iterator[tuple[str, bool]]:
    """Why a value of one of the known types is not of the declared one, and whether it is sure."""
    values = known - {"null"}
    if declared.type in values:
        return
    what = f"{source} is of the type {' or '.join(sorted(values))}."
    if declared.type == "number" and "integer" in values:
        return
    if declared.type == "integer" and "number" in values and source.key is not None:
        yield f"{what} A number with a fraction fails this step.", False
    else:
        yield what, True


def _gaps(place: Place, step: Mapping[str, Any], flow: PromptFlow) -> Iterator[Finding]:
    """Placeholders of a prompt that the step does not map: they are empty in each of its runs."""
    texts = (flow.system_prompt, flow.user_template)
    needed = set().union(*(names_needed(text, is_formatted(*texts)) for text in texts))
    for name in sorted(needed - step["input_mapping"].keys() - flow.defaults.keys()):
        near = did_you_mean(name, step["input_mapping"])
        message = f"The prompt of the flow {flow.name!r} has the placeholder {name!r}, which this"
        yield (*place, "input_mapping"), f"{message} step does not map: it is empty.{near}", False


def _aggregator(place: Place, items: Shape) -> Iterator[Finding]:
    known = shapes.types(items)
    if known and not known & {"array", "null"}:
        found = " or ".join(sorted(known))
        message = f"A batch_aggregator needs a list; this is of the type {found}."
        yield (*place, "input_mapping", "items"), message, True


def _possible_lists(step: Mapping[str, Any], given: Mapping[str, Shape]) -> list[str]:
    """The inputs over which a batch may run: the one that is named, or all that may be a list."""
    if "batch_over" in step:
        return [step["batch_over"]]
    sure = [name for name, shape in given.items() if shapes.is_list(shape)]
    return sure or [name for name, shape in given.items() if shapes.can_be_list(shape)]


def _batch(place: Place, step: Mapping[str, Any], given: Mapping[str, Shape]) -> Iterator[Finding]:
    sure = [name for name, shape in given.items() if shapes.is_list(shape)]
    possible = _possible_lists(step, given)
    if not any(shapes.can_be_list(given[name]) for name in possible):
        kinds = ", ".join(
            f"{name!r} is of the type {' or '.join(sorted(shapes.types(given[name]) or ()))}"
            for name in (possible or given)
        )
        key = "batch_over" if "batch_over" in step else "batch_mode"
        yield (*place, key), f"batch_mode runs over a list, but {kinds}.", True
    elif "batch_over" not in step and len(sure) > 1:
        names = " and ".join(map(repr, sure))
        message = f"batch_mode runs over one list, but {names} are lists. Name the one to run over:"
        yield (*place, "batch_mode"), f"{message} batch_over: {sure[0]}.", True
