"""The one entrance to the runtime: runs an agent or a pipeline and returns its outputs as JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from app.catalog.inputs import with_defaults
from app.catalog.model import Agent, Catalog, Flow, PythonFlow
from app.executions.model import ModelUsage, Progress, TargetType
from app.models.base import ModelProvider, Stopped
from app.runtime.checkpoint import Found, Save
from app.runtime.context import Context
from app.runtime.errors import FlowError, RunFailed
from app.runtime.flows import outputs_of_python, run_flow
from app.runtime.outputs import encode
from app.runtime.pipeline import DEFAULT_MAX_WORKERS, PipelinePorts, PipelineRun
from app.runtime.python_flow import entry_point, run_python_as_task
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
    with _failures(run, ports):
        if run.target_type == TargetType.AGENT:
            agent, flow = _agent(run, ports)
            with _agent_context(run, ports, agent) as context:
                outputs = run_flow(agent, flow, with_defaults(agent.inputs, run.inputs), context)
        else:
            outputs = _run_pipeline(run, ports, result_limit_bytes)
        return encode(outputs, result_limit_bytes)


def python_flows(catalog: Catalog, target_id: str, config: Mapping[str, Any]) -> list[PythonFlow]:
    """The flows of a run whose code has to be loaded. A pipeline's conditions may pass over some."""
    flows: list[Flow | None] = []
    if target_id in catalog.agents:
        flows = [catalog.agents[target_id].flow(config.get("flow_id"))]
    elif target_id in catalog.pipelines:
        pipeline = catalog.pipelines[target_id]
        overrides = pipeline.variants.get(config.get("variant", ""), {})
        flows = [
            catalog.agents[step.agent].flow(overrides.get(step.id, {}).get("flow", step.flow))
            for step in pipeline.steps
            if step.agent is not None
        ]
    return list(dict.fromkeys(flow for flow in flows if isinstance(flow, PythonFlow)))


def flow_that_only_waits(run: Run, catalog: Catalog) -> PythonFlow | None:
    """The asynchronous Python flow that a run is of, if it is of one: `execute_as_task` runs it.

    Loads the flow's code. Never raises: what is wrong is found again by `execute`.
    """
    agent = catalog.agents.get(run.target_id) if run.target_type == TargetType.AGENT else None
    flow = agent.flow(run.config.get("flow_id")) if agent else None
    with contextlib.suppress(BaseException):
        if isinstance(flow, PythonFlow) and entry_point(flow).only_waits:
            return flow
    return None


async def execute_as_task(run: Run, ports: Ports, result_limit_bytes: int) -> Callable[[], bytes]:
    """As `execute`, in the event loop, for a flow that only waits: it costs no thread.

    Returns what makes its outputs JSON, which may take long and so is called somewhere else.
    """
    with _failures(run, ports):
        agent, flow = _agent(run, ports)
        assert isinstance(flow, PythonFlow)
        with _agent_context(run, ports, agent) as context:
            returned = await run_python_as_task(
                flow, with_defaults(agent.inputs, run.inputs), context
            )

    def encoded() -> bytes:
        with _failures(run, ports):
            return encode(outputs_of_python(returned, context), result_limit_bytes)

    return encoded


@contextlib.contextmanager
def _failures(run: Run, ports: Ports) -> Iterator[None]:
    """What a flow raises because it was stopped is not its failure; everything else is."""
    try:
        yield
    except BaseException as error:
        if ports.stop.requested:
            raise Stopped from error
        raise RunFailed.from_error(error, {f"{run.target_type}_id": run.target_id}) from error


def _agent(run: Run, ports: Ports) -> tuple[Agent, Flow]:
    agent = ports.catalog.agents.get(run.target_id) or _missing(run)
    return agent, agent.flow(run.config.get("flow_id")) or _missing(run)


@contextlib.contextmanager
def _agent_context(run: Run, ports: Ports, agent: Agent) -> Iterator[Context]:
    budget = Budget(run.config.get("budget") or {}, ports.usage, counts_calls=True)
    with ports.stop.sheltered() as stop:
        yield _context(
            run,
            ports,
            budget,
            step_key=agent.id,
            stop=stop,
            usage=ports.usage,
            report=ports.report,
            model_override=run.config.get("model_override"),
        )


def _run_pipeline(run: Run, ports: Ports, result_limit_bytes: int) -> dict[str, Any]:
    pipeline = ports.catalog.pipelines.get(run.target_id) or _missing(run)
    budget = Budget(run.config.get("budget") or {}, ports.usage, counts_calls=False)

    def run_step(
        agent: Agent, flow: Flow, inputs: dict[str, Any], *, stop: StopSignal, **bound: Any
    ) -> dict[str, Any]:
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
    raise FlowError(
        f"This worker has no {run.target_type} {run.target_id!r} with such a flow: was it removed?"
    )
