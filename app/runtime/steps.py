"""One step of a pipeline: its state in a run (`StepState`), and the work of a call (`StepRunner`).

The loop in `pipeline.py` owns the states. It runs `StepRunner.run` in threads, one for each call.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.catalog.inputs import fits, type_of
from app.catalog.model import Agent, Flow, Pipeline, Step
from app.domain.execution import Failure, StepRecord, StepStatus
from app.runtime.aggregate import Aggregated, aggregate
from app.runtime.batch import Batch
from app.runtime.calls import Call, CallResult, call_name
from app.runtime.checkpoint import SavedState
from app.runtime.errors import FlowError
from app.runtime.live import Place
from app.runtime.mapping import inputs_of
from app.runtime.outputs import encode
from app.runtime.stop import StopSignal
from app.runtime.usage import Usage

RunFlow = Callable[..., Any]
"""`(agent, flow, inputs, *, step_key, place, stop, usage, model_override)` -> the agent's outputs.

They are a dict with `output` and `metadata`.
"""

RETRY_SECONDS = (0.5, 2.0, 8.0)
"""Pauses before the retries of a step that names none; the last one repeats."""

MAX_WARNINGS = 10
"""The most warnings in a step's record, which is read and written as a whole."""


@dataclass(slots=True, eq=False)
class StepState:
    """One step in this run. Only the loop's thread changes it.

    `given` are the inputs of the present try, `stop` is its signal, `calls` are its calls that have
    not ended, and `error` is its first error. `due_at` and `give_up_at` are moments of
    `time.monotonic`. `share_done` is how much of its batch was done at most, in any try.
    """

    step: Step
    record: StepRecord
    usage: Usage
    tries: int = 0
    due_at: float = 0.0
    give_up_at: float = math.inf
    stop: StopSignal = field(default_factory=StopSignal)
    calls: list[Call] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)
    batch: Batch | None = None
    done_items: dict[int, Any] = field(default_factory=dict)
    share_done: float = 0.0
    error: BaseException | None = None

    def begin(self) -> None:
        """Begins a new try. Its timeout counts from now."""
        self.tries += 1
        # A new signal, because calls of the try before may still be running, and stay stopped.
        self.stop = StopSignal()
        self.batch = None
        self.error = None
        self.calls = []
        seconds = self.step.timeout_seconds
        self.give_up_at = time.monotonic() + seconds if seconds else math.inf
        self.become(StepStatus.RUNNING, attempt=self.record.attempt + 1, failure=None, warnings=())

    def plan(self, values: Mapping[str, Any]) -> None:
        """Reads the inputs of this try and divides a batch. What does not fit is its error."""
        try:
            self.given = inputs_of(self.step, values)
            if self.step.batch_mode:
                self.batch = Batch(self.step, self.given, self.done_items)
        except FlowError as error:
            self.error = error
        else:
            self.note_share()

    def note_share(self) -> None:
        """Called when items have ended. The share never falls, although a try may fail."""
        if self.batch is not None:
            self.share_done = max(self.share_done, self.batch.share_done)

    def warn(self, warnings: tuple[str, ...]) -> None:
        """Adds warnings about an item to the record, unless there are `MAX_WARNINGS` already."""
        if len(self.record.warnings) < MAX_WARNINGS:
            self.become(self.record.status, warnings=(*self.record.warnings, *warnings))

    def become(self, status: StepStatus, **changes: Any) -> None:
        """Replaces the record, with the usage up to now. `changes` are other fields of it."""
        self.record = replace(self.record, status=status, usage=self.usage.models, **changes)

    def wait_for_retry(self, failure: Failure, retry_after_seconds: float | None) -> None:
        """Sets `due_at`: as the model server asked, else by the step's pauses or ours."""
        pauses = self.step.backoff_seconds or RETRY_SECONDS
        pause = retry_after_seconds
        if pause is None:
            pause = pauses[min(self.tries, len(pauses)) - 1]
        self.due_at = time.monotonic() + pause
        self.become(StepStatus.PENDING, failure=failure)


class StepRunner:
    """Runs the agents and aggregators of one pipeline. May be used from any thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        agents: Mapping[str, Agent],
        config: Mapping[str, Any],
        run_flow: RunFlow,
        result_limit_bytes: int,
    ):
        self._pipeline_id = pipeline.id
        self._agents = agents
        self._run_flow = run_flow
        self._limit_bytes = result_limit_bytes
        self._model_override = config.get("model_override")
        self._overrides = pipeline.variants.get(config.get("variant", ""), {})

    def details(self, step: Step) -> dict[str, Any]:
        """The place of a failure, for `error.details`."""
        return {
            "pipeline_id": self._pipeline_id,
            "step_id": step.id,
            "agent_id": step.agent,
            "flow_id": self._flow_id(step),
        }

    def planned(self, position: int, step: Step, saved: SavedState, usage: Usage) -> StepState:
        """The state of a step at the beginning of a run, with what earlier attempts saved of it.

        Its usage adds to `usage`, the run's.
        """
        known = saved.records.get(step.id)
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
        done_items = saved.items(step.id) if step.batch_mode else {}
        return StepState(step, plan, Usage(usage, before), done_items=done_items)

    def run(self, state: StepState, given: dict[str, Any], item: int | None) -> CallResult:
        """Does the work of one call. Raises whatever the flow raises, `FlowError`, `InvalidOutput`.

        `item` is the number of a batch's item, else None.
        """
        step = state.step
        if step.agent:
            outputs = self._run_agent(state, given, item)
            done = Aggregated(outputs["output"], _about_the_answer(outputs["metadata"], item))
        else:
            done = aggregate(step.aggregation, given.get("items"))
            if done.warnings and step.fails_on_error:
                raise FlowError(" ".join(done.warnings))
        text = encode(done.value, self._limit_bytes, f"The output of the step {step.id!r}")
        # Read back from JSON: a run that goes on from the stored output later gets the same value,
        # and steps that read this output share no object with the flow that made it.
        return CallResult(json.loads(text), text, done.warnings)

    def _run_agent(
        self, state: StepState, given: dict[str, Any], item: int | None
    ) -> dict[str, Any]:
        step = state.step
        override = self._overrides.get(step.id, {})
        agent = self._agents[step.agent or ""]
        _check_types(step, agent, given, item)
        outputs: dict[str, Any] = self._run_flow(
            agent,
            self.flow_of(step),
            given,
            step_key=call_name(step.id, item),
            place=Place(step.id, item),
            stop=state.stop,
            usage=state.usage,
            # The request goes before the variant, and the variant before the pipeline's file.
            model_override=self._model_override or override.get("model") or step.model_override,
        )
        return outputs

    def flow_of(self, step: Step) -> Flow | None:
        """The step's flow in this run's variant; None for an aggregator, which has none."""
        if step.agent is None:
            return None
        name = self._overrides.get(step.id, {}).get("flow", step.flow)
        return self._agents[step.agent].flow(name)

    def _flow_id(self, step: Step) -> str | None:
        flow = self.flow_of(step)
        return flow.name if flow else None


def _about_the_answer(metadata: Mapping[str, Any], item: int | None) -> tuple[str, ...]:
    """A warning if the model's answer is incomplete: the next steps get its text only."""
    reason = metadata.get("finish_reason")
    if metadata.get("refusal"):
        warning = "The model refused to answer."
    elif reason == "length":
        warning = "The model's answer was cut off (finish_reason: length)."
    elif reason == "content_filter":
        warning = "A part of the model's answer was filtered out (finish_reason: content_filter)."
    else:
        return ()
    return (warning if item is None else f"Item {item}: {warning}",)


def _check_types(step: Step, agent: Agent, given: Mapping[str, Any], item: int | None) -> None:
    """Raises `FlowError` for an input that does not have the type that the agent declares."""
    for declared in agent.inputs or ():
        if declared.name not in step.input_mapping:
            continue
        value = given[declared.name]
        # Null counts as left out: it is the output of a step that was skipped, or failed and may.
        if fits(declared.type, value) or (value is None and not declared.needed):
            continue
        source = repr(str(step.input_mapping[declared.name])) + (
            "" if item is None else f" (item {item})"
        )
        raise FlowError(
            f"The input {declared.name!r} of the step {step.id!r} must be of the type "
            f"{declared.type}; {source} is of the type {type_of(value)}."
        )
