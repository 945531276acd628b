"""The one entrance to the runtime: runs an agent or a pipeline and returns its outputs as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from app.catalog.inputs import with_defaults
from app.catalog.model import Agent, Catalog, Flow
from app.executions.model import ModelUsage, Progress, TargetType
from app.models.base import ModelProvider, Stopped
from app.runtime.checkpoint import Found, Save
from app.runtime.context import Context
from app.runtime.errors import FlowError, RunFailed
from app.runtime.flows import run_flow
from app.runtime.outputs import encode
from app.runtime.pipeline import DEFAULT_MAX_WORKERS, PipelinePorts, PipelineRun
from app.runtime.steps import StepRunner
from app.runtime.stop import StopSignal
from app.runtime.usage import Budget, Usage


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at an execution, as it was asked for. `found` is what earlier ones have stored."""

    execution_id: str
    attempt: int
    target_type: str
    target_id: str
    inputs: dict[str, Any]
    config: dict[str, Any]
    found: Found = field(default_factory=Found)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """What a run needs of the process it runs in.

    `usage` is added to as models answer; it begins with what earlier attempts used. `left_behind` is told,
    before `execute` ends, how many threads of the run go on, deaf to its stop.
    """

    catalog: Catalog
    models: ModelProvider
    stop: StopSignal
    usage: Usage
    report: Callable[[Progress], None]
    save: Save
    left_behind: Callable[[int], None]
    log: Callable[..., None]


def usage_before(stored: Mapping[str, ModelUsage], found: Found) -> Usage:
    """What a run begins with: what earlier attempts used; for a retry, what was used on the steps it goes on from."""
    usage = Usage(before=stored)
    if not stored:
        for record in found.records.values():
            for model, each in record.usage.items():
                usage.add_usage(model, each)
    return usage


def execute(run: Run, ports: Ports, result_limit_bytes: int) -> bytes:
    """The outputs as JSON. Raises `RunFailed`, or `Stopped`, which only a request of `ports.stop` causes.

    Whatever a flow raises becomes a `RunFailed`, `SystemExit` and an unasked `Stopped` included.
    Progress is reported in order and never goes back; that of the end is left to the caller.
    """
    details: dict[str, Any] = {f"{run.target_type}_id": run.target_id}
    try:
        if run.target_type == TargetType.AGENT:
            outputs = _run_agent(run, ports)
        else:
            outputs = _run_pipeline(run, ports, result_limit_bytes)
        return encode(outputs, result_limit_bytes)
    except BaseException as error:
        if ports.stop.requested:
            raise Stopped from error  # what a flow raises because it was stopped is not its failure
        raise RunFailed.from_error(error, details) from error


def _run_agent(run: Run, ports: Ports) -> dict[str, Any]:
    agent = ports.catalog.agents.get(run.target_id) or _missing(run)
    flow = agent.flow(run.config.get("flow_id")) or _missing(run)
    budget = Budget(run.config.get("budget") or {}, ports.usage, counts_calls=True)
    with ports.stop.sheltered() as stop:
        context = _context(
            run,
            ports,
            budget,
            step_key=agent.id,
            stop=stop,
            usage=ports.usage,
            report=ports.report,
            model_override=run.config.get("model_override"),
        )
        return run_flow(agent, flow, with_defaults(agent.inputs, run.inputs), context)


def _run_pipeline(run: Run, ports: Ports, result_limit_bytes: int) -> dict[str, Any]:
    pipeline = ports.catalog.pipelines.get(run.target_id) or _missing(run)
    budget = Budget(run.config.get("budget") or {}, ports.usage, counts_calls=False)

    def run_step(agent: Agent, flow: Flow, inputs: dict[str, Any], *, stop: StopSignal, **bound: Any) -> dict[str, Any]:
        with stop.sheltered() as own:
            context = _context(run, ports, budget, stop=own, **bound)
            return run_flow(agent, flow, with_defaults(agent.inputs, inputs), context)

    return PipelineRun(
        pipeline,
        with_defaults(pipeline.inputs, run.inputs),
        run.config.get("max_workers", DEFAULT_MAX_WORKERS),
        StepRunner(pipeline, ports.catalog.agents, run.config, run_step, result_limit_bytes),
        PipelinePorts(ports.stop, ports.save, run.found, ports.usage, budget, ports.left_behind),
        result_limit_bytes,
    ).run()


def _context(run: Run, ports: Ports, budget: Budget, *, step_key: str, **bound: Any) -> Context:
    """The context of an agent's run, or of one step of a pipeline; `step_key` is unique in the execution."""
    return Context(
        execution_id=run.execution_id,
        attempt=run.attempt,
        config=run.config,
        traceparent=run.traceparent,
        step_key=f"{run.execution_id}:{step_key}",
        models=ports.models,
        budget=budget,
        log=ports.log,
        **bound,
    )


def _missing(run: Run) -> NoReturn:
    """The catalog of the web process had it; this process was started with another one."""
    raise FlowError(f"This worker has no {run.target_type} {run.target_id!r} with such a flow: was it removed?")
