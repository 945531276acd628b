"""The one entrance to the runtime: runs an agent or a pipeline and returns its outputs as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from app.catalog.inputs import with_defaults
from app.catalog.model import Agent, Catalog
from app.executions.model import Progress, TargetType
from app.models.base import ModelProvider, Stopped
from app.runtime.context import Context
from app.runtime.errors import FlowError, RunFailed
from app.runtime.flows import run_flow
from app.runtime.outputs import encode
from app.runtime.pipeline import PipelineRun
from app.runtime.stop import StopSignal


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at an execution, as it was asked for."""

    execution_id: str
    attempt: int
    target_type: str
    target_id: str
    inputs: dict[str, Any]
    config: dict[str, Any]
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """What a run needs of the process it runs in."""

    catalog: Catalog
    models: ModelProvider
    stop: StopSignal
    report: Callable[[Progress], None]
    log: Callable[..., None]


def execute(run: Run, ports: Ports, result_limit_bytes: int) -> bytes:
    """The outputs as JSON. Raises `RunFailed`, or `Stopped` after `ports.stop` was requested.

    Whatever a flow raises becomes a `RunFailed`, `SystemExit` included. Progress is reported in order and
    never goes back; that of the end is left to the caller.
    """
    details: dict[str, Any] = {f"{run.target_type}_id": run.target_id}
    try:
        outputs = _run_agent(run, ports) if run.target_type == TargetType.AGENT else _run_pipeline(run, ports)
        return encode(outputs, result_limit_bytes)
    except Stopped:
        raise
    except BaseException as error:
        if ports.stop.requested:
            raise Stopped from error  # what a flow raises because it was stopped is not its failure
        raise RunFailed.from_error(error, details) from error


def _run_agent(run: Run, ports: Ports) -> dict[str, Any]:
    agent = ports.catalog.agents.get(run.target_id) or _missing(run)
    flow = agent.flow(run.config.get("flow_id")) or _missing(run)
    context = new_context(run, ports, agent, report=ports.report, model_override=run.config.get("model_override"))
    return run_flow(agent, flow, with_defaults(agent.inputs, run.inputs), context)


def _run_pipeline(run: Run, ports: Ports) -> dict[str, Any]:
    pipeline = ports.catalog.pipelines.get(run.target_id) or _missing(run)

    def run_step(agent: Agent, flow_id: str | None, inputs: dict[str, Any], **bound: Any) -> dict[str, Any]:
        flow = agent.flow(flow_id) or _missing(run)
        return run_flow(agent, flow, with_defaults(agent.inputs, inputs), new_context(run, ports, agent, **bound))

    inputs = with_defaults(pipeline.inputs, run.inputs)
    return PipelineRun(pipeline, ports.catalog.agents, inputs, run.config, run_step, ports.stop, ports.report).run()


def new_context(
    run: Run,
    ports: Ports,
    agent: Agent,
    *,
    step: str | None = None,
    stop: StopSignal | None = None,
    report: Callable[[Progress], None] | None = None,
    model_override: str | None = None,
) -> Context:
    """The context of an agent's run (`step` None), or of one step of a pipeline."""
    return Context(
        execution_id=run.execution_id,
        attempt=run.attempt,
        config=run.config,
        traceparent=run.traceparent,
        step_key=f"{run.execution_id}:{step or agent.id}",
        stop=stop or ports.stop,
        models=ports.models,
        log=ports.log,
        report=report,
        model_override=model_override,
    )


def _missing(run: Run) -> NoReturn:
    """The catalog of the web process had it; this process was started with another one."""
    raise FlowError(f"This worker has no {run.target_type} {run.target_id!r} with such a flow: was it removed?")
