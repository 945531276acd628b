"""A step of a pipeline while it runs: its state, and the work it does in threads. Decides nothing about others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from app.catalog.inputs import fits, type_of
from app.catalog.model import Agent, Flow, Pipeline, Step
from app.executions.model import Failure, StepRecord, StepStatus
from app.runtime.aggregate import Aggregated, aggregate
from app.runtime.batch import Batch
from app.runtime.checkpoint import Found
from app.runtime.errors import FlowError
from app.runtime.outputs import encode
from app.runtime.stop import StopSignal
from app.runtime.usage import Usage

RunFlow = Callable[..., Any]
"""`(agent, flow, inputs, *, step_key, stop, usage, model_override)` -> the agent's outputs, with `output`."""

RETRY_SECONDS = (0.5, 2.0, 8.0)

MAX_WARNINGS = 10
"""About items of a batch, in a step's record."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One call of a step's agent: the whole step, or one item of its batch."""

    state: StepState
    item: int | None
    future: Future[Result]


@dataclass(frozen=True, slots=True)
class Result:
    """What a call came to: the output, the same as JSON, and what is to be known about it."""

    output: Any
    text: bytes
    warnings: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class StepState:
    """One step in this run. `stop` ends the present try, `works` are its calls that have not ended."""

    step: Step
    record: StepRecord
    usage: Usage
    tries: int = 0
    due_at: float = 0.0
    give_up_at: float = float("inf")
    stop: StopSignal = field(default_factory=StopSignal)
    works: list[Work] = field(default_factory=list)
    batch: Batch | None = None
    done_items: dict[int, Any] = field(default_factory=dict)
    error: BaseException | None = None

    def begin(self) -> None:
        """A new try. Its clock runs from here."""
        self.tries += 1
        self.stop, self.batch, self.error, self.works = StopSignal(), None, None, []
        seconds = self.step.timeout_seconds
        self.give_up_at = time.monotonic() + seconds if seconds else float("inf")
        self.become(StepStatus.RUNNING, attempt=self.record.attempt + 1, failure=None, warnings=())

    def warn(self, warnings: tuple[str, ...]) -> None:
        """Adds what is to be known of an item; of many items only the first few are told."""
        if len(self.record.warnings) < MAX_WARNINGS:
            self.become(self.record.status, warnings=(*self.record.warnings, *warnings))

    def become(self, status: StepStatus, **changes: Any) -> None:
        self.record = replace(self.record, status=status, usage=self.usage.models, **changes)

    def wait_for_retry(self, failure: Failure, wish_seconds: float | None) -> None:
        """Puts the next try off: by the provider's own wish, else by the step's or our own pauses."""
        pauses = self.step.backoff_seconds or RETRY_SECONDS
        pause = pauses[min(self.tries, len(pauses)) - 1] if wish_seconds is None else wish_seconds
        self.due_at = time.monotonic() + pause
        self.become(StepStatus.PENDING, failure=failure)


class StepRunner:
    """How the steps of one pipeline do their work. Its methods may be called from many threads."""

    def __init__(
        self,
        pipeline: Pipeline,
        agents: Mapping[str, Agent],
        config: Mapping[str, Any],
        run_flow: RunFlow,
        result_limit_bytes: int,
    ):
        self._pipeline_id = pipeline.id
        self._agents, self._run_flow, self._limit_bytes = agents, run_flow, result_limit_bytes
        self._model_override = config.get("model_override")
        self._overrides = pipeline.variants.get(config.get("variant", ""), {})

    def flow_of(self, step: Step) -> Flow | None:
        """The flow that is run, the run's variant regarded; None for an aggregator, which runs none."""
        if step.agent is None:
            return None
        return self._agents[step.agent].flow(
            self._overrides.get(step.id, {}).get("flow", step.flow)
        )

    def details(self, step: Step) -> dict[str, Any]:
        """Where a failure happened, for `error.details`."""
        flow_id = self._flow_id(step)
        return {
            "pipeline_id": self._pipeline_id,
            "step_id": step.id,
            "agent_id": step.agent,
            "flow_id": flow_id,
        }

    def planned(self, position: int, step: Step, found: Found, usage: Usage) -> StepState:
        """The step as this run begins with it: done already, or still to do, with what is known of earlier tries."""
        known = found.records.get(step.id)
        before = known.usage if known else {}
        if known and known.done:
            return StepState(step, known, Usage(usage, before))
        plan = StepRecord(
            step.id,
            position,
            StepStatus.PENDING,
            step.output_key,
            step.agent,
            self._flow_id(step),
            attempt=known.attempt if known else 0,
            usage=before,
        )
        done_items = found.items(step.id) if step.batch_mode else {}
        return StepState(step, plan, Usage(usage, before), done_items=done_items)

    def _flow_id(self, step: Step) -> str | None:
        flow = self.flow_of(step)
        return flow.name if flow else None

    def run(self, state: StepState, given: dict[str, Any], item: int | None) -> Result:
        """Does the work of one call. Raises whatever the flow raises, `FlowError`, `InvalidOutput`.

        What is passed on is what was stored, so that a run that goes on from there sees no difference, and
        steps that read the same output share no object.
        """
        step = state.step
        if step.agent:
            outputs = self._ask_agent(state, given, item)
            done = Aggregated(outputs["output"], _about_the_answer(outputs["metadata"], item))
        else:
            done = aggregate(step.aggregation, given.get("items"))
            if done.warnings and step.fails_on_error:
                raise FlowError(" ".join(done.warnings))
        text = encode(done.value, self._limit_bytes, f"The output of the step {step.id!r}")
        return Result(json.loads(text), text, done.warnings)

    def _ask_agent(
        self, state: StepState, given: dict[str, Any], item: int | None
    ) -> dict[str, Any]:
        step, override = state.step, self._overrides.get(state.step.id, {})
        agent = self._agents[step.agent or ""]
        _check_types(step, agent, given, item)
        outputs: dict[str, Any] = self._run_flow(
            agent,
            self.flow_of(step),
            given,
            step_key=step.id if item is None else f"{step.id}:{item}",
            stop=state.stop,
            usage=state.usage,
            model_override=self._model_override or override.get("model") or step.model_override,
        )
        return outputs


def _about_the_answer(metadata: Mapping[str, Any], item: int | None) -> tuple[str, ...]:
    """A warning if a model's answer is not whole: only its text goes on to the next steps."""
    reason = metadata.get("finish_reason")
    if metadata.get("refusal"):
        how = "The model refused to answer."
    elif reason == "length":
        how = "The model's answer was cut off (finish_reason: length)."
    elif reason == "content_filter":
        how = "A part of the model's answer was filtered out (finish_reason: content_filter)."
    else:
        return ()
    return (how if item is None else f"Item {item}: {how}",)


def _check_types(step: Step, agent: Agent, given: Mapping[str, Any], item: int | None) -> None:
    """Raises `FlowError` for an input that is not of the type that the agent declares.

    Null is as good as left out: it is what a step gives that was skipped, or failed and may.
    """
    for declared in agent.inputs or ():
        if declared.name not in step.input_mapping:
            continue
        value = given[declared.name]
        if fits(declared.type, value) or (value is None and not declared.needed):
            continue
        source = repr(step.input_mapping[declared.name]) + (
            "" if item is None else f" (item {item})"
        )
        raise FlowError(
            f"The input {declared.name!r} of the step {step.id!r} must be of the type {declared.type}; "
            f"{source} is of the type {type_of(value)}."
        )
