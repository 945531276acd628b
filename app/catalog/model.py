"""What can be run: agents and pipelines as values. Reading and checking the files is `loader`'s business."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Isolation = Literal["thread", "process"]
InputType = Literal["any", "string", "integer", "number", "boolean", "array", "object"]


class Missing:
    """The type of `MISSING`: "no default", which is something else than the default `None`."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # one object, in every process


MISSING = Missing()


@dataclass(frozen=True, slots=True)
class InputField:
    """One declared input of a target."""

    name: str
    type: InputType = "any"
    required: bool = False
    default: Any = MISSING
    description: str = ""

    @property
    def needed(self) -> bool:
        """Whether it must be given: it is required, and no default stands in for it."""
        return self.required and self.default is MISSING


@dataclass(frozen=True, slots=True)
class OutputParser:
    """How a model's answer is read: `none` (text), `json`, or `list`."""

    type: Literal["none", "json", "list"] = "none"
    schema: Mapping[str, Any] | None = None
    retry_on_error: bool = False
    max_retries: int = 0


@dataclass(frozen=True, slots=True)
class PromptFlow:
    """A flow that renders two templates and asks a model.

    It waits rather than computes: a thread will do. `options` are those of the model call
    (`temperature`, `max_tokens`, `response_format`, ...). `names` are those that its placeholders
    may have; None if the agent declares no inputs.
    """

    name: str
    user_template: str
    system_prompt: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    output_parser: OutputParser = OutputParser()
    isolation: Isolation = "thread"
    names: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class PythonFlow:
    """A flow that is code: `entrypoint` is `file.py:attribute` in `folder`, or `package.module:attribute`.

    `fresh`: its process has run nothing before, and runs nothing after it.
    """

    name: str
    entrypoint: str
    folder: Path
    isolation: Isolation = "process"
    fresh: bool = False


Flow = PromptFlow | PythonFlow


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent with its flows. `inputs` is None where none are declared: then every input is accepted.

    `definition` is the version of its folder: it changes with any file in it.
    """

    id: str
    flows: Mapping[str, Flow]
    default_flow: str
    inputs: tuple[InputField, ...] | None = None
    name: str = ""
    description: str = ""
    version: str = ""
    definition: str = ""

    def flow(self, flow_id: str | None = None) -> Flow | None:
        """The flow of that name; `None` and `default` mean the default flow; None where there is none."""
        if flow_id is None or (flow_id == "default" and flow_id not in self.flows):
            flow_id = self.default_flow
        return self.flows.get(flow_id)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pipeline. `depends_on` is complete: what it names and the steps whose output it reads.

    `type` is `agent_flow` or `batch_aggregator`; `input_mapping` maps the agent's input names to pipeline
    inputs or earlier output keys. `timeout_seconds` is None where the run's own is the only limit.
    `retries` is how often it is tried again; the pauses between are `backoff_seconds`, the last one
    repeated, or the runtime's own where it is empty. `when` is a well-formed JMESPath expression.
    `aggregation` is empty but for a `batch_aggregator`: `strategy`, and what that strategy needs.
    `on_error` says what follows if a condition cannot be evaluated, or an item not be aggregated.
    """

    id: str
    output_key: str
    type: Literal["agent_flow", "batch_aggregator"] = "agent_flow"
    agent: str | None = None
    flow: str | None = None
    input_mapping: Mapping[str, str] = field(default_factory=dict)
    depends_on: frozenset[str] = frozenset()
    required: bool = True
    timeout_seconds: float | None = None
    retries: int = 0
    backoff_seconds: tuple[float, ...] = ()
    when: str | None = None
    model_override: str | None = None
    batch_mode: bool = False
    concurrent: bool = True
    max_workers: int | None = None
    aggregation: Mapping[str, Any] = field(default_factory=dict)
    on_error: Literal["warn", "fail"] = "warn"
    description: str = ""

    @property
    def fails_on_error(self) -> bool:
        return self.on_error == "fail"


@dataclass(frozen=True, slots=True)
class Output:
    """One declared result of a pipeline: the `output_key` it returns, and a label for people."""

    key: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline whose graph has been checked: ids unique, no cycle, every key has a producer.

    `steps` stand in the file's order; `isolation` is `thread` where every flow it may run is; `fresh` is true
    where any flow it may run is. `definition` is
    the version of what is run: it changes with inputs, steps, outputs and variants, not with what is for
    people, nor with the agents.
    """

    id: str
    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]
    isolation: Isolation
    inputs: tuple[InputField, ...] | None = None
    variants: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    fresh: bool = False
    name: str = ""
    description: str = ""
    version: str = ""
    definition: str = ""


Target = Agent | Pipeline


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that can be run, by id. An agent and a pipeline never share an id."""

    agents: Mapping[str, Agent]
    pipelines: Mapping[str, Pipeline]

    def __iter__(self) -> Iterator[Target]:
        yield from self.agents.values()
        yield from self.pipelines.values()

    def is_fresh(self, target_id: str, flow_id: str | None) -> bool:
        """Whether a run of it needs a process that has run nothing before."""
        if target_id in self.pipelines:
            return self.pipelines[target_id].fresh
        flow = self.agents[target_id].flow(flow_id) if target_id in self.agents else None
        return isinstance(flow, PythonFlow) and flow.fresh
