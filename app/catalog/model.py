"""The values of the catalog: agents, flows, pipelines and steps, as the whole service uses them.

`agents` and `pipelines` build them from files that they have checked. They never change after that,
and can be pickled, as worker processes pass them on to their children.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Isolation = Literal["thread", "process"]
InputType = Literal["any", "string", "integer", "number", "boolean", "array", "object"]


class Missing:
    """The type of `MISSING`, which means "no default". `None` is a default like any other."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        # Pickled by its name, so that `is MISSING` also holds in another process.
        return "MISSING"


MISSING = Missing()


@dataclass(frozen=True, slots=True)
class InputField:
    """One declared input of an agent or a pipeline."""

    name: str
    type: InputType = "any"
    required: bool = False
    default: Any = MISSING
    description: str = ""

    @property
    def needed(self) -> bool:
        """Whether a run must give it: it is required and has no default."""
        return self.required and self.default is MISSING


@dataclass(frozen=True, slots=True)
class OutputParser:
    """How a model's answer is read: as text (`none`), as JSON, or as a list.

    `schema` is a JSON Schema for the answer. With `retry_on_error`, the model gets an answer that
    cannot be read back, with the reason, and is asked again, up to `max_retries` times.
    """

    type: Literal["none", "json", "list"] = "none"
    schema: Mapping[str, Any] | None = None
    retry_on_error: bool = False
    max_retries: int = 0


@dataclass(frozen=True, slots=True)
class PromptFlow:
    """A flow that renders two templates and sends them to a model."""

    name: str
    user_template: str
    system_prompt: str = ""
    # Values for placeholders that the inputs leave out.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    # None means the service's own model.
    model: str | None = None
    # Sent with the request: `temperature`, `max_tokens`, `response_format`, ...
    options: Mapping[str, Any] = field(default_factory=dict)
    output_parser: OutputParser = OutputParser()
    # Whether the model's answer is shown as it comes. None: if somebody follows the execution.
    stream: bool | None = None
    # It waits for the model's server nearly all of the time, so a thread is enough.
    isolation: Isolation = "thread"
    # The names that placeholders can have: inputs and defaults. None if the agent declares no
    # inputs, so that any name is possible.
    names: frozenset[str] | None = None
    # Relative to the agent's folder.
    file: str = ""


@dataclass(frozen=True, slots=True)
class PythonFlow:
    """A flow that is code: a function, or an object with `invoke` or `ainvoke`.

    `entrypoint` is `file.py:attribute` with a file in `folder`, or `package.module:attribute`.
    """

    name: str
    entrypoint: str
    folder: Path
    # As its file says; else `thread` for an asynchronous one, and `process` for any other.
    isolation: Isolation = "process"
    # Each run gets a process that has run nothing before and runs nothing after it.
    fresh: bool = False


Flow = PromptFlow | PythonFlow


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent with its flows, by name."""

    id: str
    flows: Mapping[str, Flow]
    default_flow: str
    # None if the file declares no inputs: then every input is accepted.
    inputs: tuple[InputField, ...] | None = None
    name: str = ""
    description: str = ""
    version: str = ""
    # A hash of the agent's folder: it changes with any file in it.
    definition_hash: str = ""
    # What is probably wrong in its files, though it can be run: a line for each.
    warnings: tuple[str, ...] = ()

    def flow(self, flow_id: str | None = None) -> Flow | None:
        """The flow with this name; None if there is none.

        No name, and the name `default` if no flow has it, mean the default flow.
        """
        if flow_id is None or (flow_id == "default" and flow_id not in self.flows):
            flow_id = self.default_flow
        return self.flows.get(flow_id)


MAX_CONSTANT_CHARACTERS = 40  # of a constant in messages and pictures


@dataclass(frozen=True, slots=True)
class Source:
    """Where an input of a step comes from: a key, a part of its value, or a constant.

    `key` is an input of the pipeline or the output key of a step, and `path` leads from its value
    to the part: names and positions. A constant has no key.
    """

    key: str | None
    path: tuple[str | int, ...] = ()
    value: Any = None

    def __str__(self) -> str:
        """As it is shown to people: `article.sections[0]`, or the constant as JSON."""
        if self.key is None:
            text = json.dumps(self.value, ensure_ascii=False, default=str)
            long = len(text) > MAX_CONSTANT_CHARACTERS
            return f"{text[: MAX_CONSTANT_CHARACTERS - 1]}…" if long else text
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return self.key + "".join(parts)

    @property
    def definition(self) -> Any:
        """What counts for the hash of a pipeline's definition. A key without a path is a text."""
        return {"value": self.value} if self.key is None else str(self)


DEFAULT_ITEMS_AT_ONCE = 4
"""How many items of a batch run at once if its step has no `max_workers`."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pipeline: it runs an agent, or combines the items of a list."""

    id: str
    output_key: str
    type: Literal["agent_flow", "batch_aggregator"] = "agent_flow"
    agent: str | None = None
    flow: str | None = None
    # The agent's input names -> what they get.
    input_mapping: Mapping[str, Source] = field(default_factory=dict)
    # All steps that must finish first: those that the file names, and those whose output it reads.
    depends_on: frozenset[str] = frozenset()
    # If False, the pipeline goes on with a null output when the step fails.
    required: bool = True
    # None if only the timeout of the whole run applies.
    timeout_seconds: float | None = None
    # How often a failed step is tried again.
    retries: int = 0
    # The pauses before these tries; the last one is repeated. Empty means the runtime's own pauses.
    backoff_seconds: tuple[float, ...] = ()
    # A valid JMESPath expression; the step is skipped if it is not true.
    when: str | None = None
    model_override: str | None = None
    # Run once for each item of the one mapped input that is a list, or of the one named here.
    batch_mode: bool = False
    batch_over: str | None = None
    concurrent: bool = True
    max_workers: int | None = None
    # For a `batch_aggregator`: its `strategy`, and what that strategy needs. Otherwise empty.
    aggregation: Mapping[str, Any] = field(default_factory=dict)
    # What happens if a condition cannot be evaluated or an item cannot be aggregated.
    on_error: Literal["warn", "fail"] = "warn"
    description: str = ""

    @property
    def fails_on_error(self) -> bool:
        return self.on_error == "fail"

    @property
    def items_at_once(self) -> int:
        """How many items of a batch may run at the same time."""
        return (self.max_workers or DEFAULT_ITEMS_AT_ONCE) if self.concurrent else 1


@dataclass(frozen=True, slots=True)
class Output:
    """One result of a pipeline: the `output_key` of a step, and a label for people."""

    key: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline with a checked graph: unique ids, no cycle, and a producer for every key."""

    id: str
    # In the order of the file.
    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]
    # `thread` only if every flow that a run can reach is.
    isolation: Isolation
    inputs: tuple[InputField, ...] | None = None
    # Variant -> step id -> its changes, `flow` and `model`.
    variants: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    # True if any flow that a run can reach is.
    fresh: bool = False
    name: str = ""
    description: str = ""
    version: str = ""
    # A hash of what is run: inputs, steps, outputs and variants. Texts for people and the agents
    # do not change it.
    definition_hash: str = ""
    # As for an agent.
    warnings: tuple[str, ...] = ()


Target = Agent | Pipeline


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that can be run, by id. An agent and a pipeline never have the same id."""

    agents: Mapping[str, Agent]
    pipelines: Mapping[str, Pipeline]

    def __iter__(self) -> Iterator[Target]:
        yield from self.agents.values()
        yield from self.pipelines.values()

    @property
    def warnings(self) -> list[str]:
        """What is probably wrong in the files: a line for each, with file and line."""
        return [warning for target in self for warning in target.warnings]

    def is_fresh(self, target_id: str, flow_id: str | None) -> bool:
        """Whether a run of it needs a process that has run nothing before. False if unknown."""
        if target_id in self.pipelines:
            return self.pipelines[target_id].fresh
        flow = self.agents[target_id].flow(flow_id) if target_id in self.agents else None
        return isinstance(flow, PythonFlow) and flow.fresh
