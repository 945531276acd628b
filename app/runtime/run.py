"""The entrance to the runtime: runs an agent or a pipeline and returns its outputs as JSON.

A worker's child process calls `execute` in a thread for each attempt (`app/worker/child_run.py`),
or `execute_as_task` in the event loop for flows that do nothing but wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from app.catalog.inputs import with_defaults
from app.catalog.model import Agent, Catalog, Flow, PythonFlow
from app.domain.execution import ModelUsage, Progress, TargetType
from app.domain.key import DEFAULT_TENANT
from app.providers.base import ModelProvider, Stopped
from app.runtime.checkpoint import Save, SavedState
from app.runtime.context import Context
from app.runtime.errors import FlowError, RunFailed
from app.runtime.flows import outputs_of_python, run_flow
from app.runtime.live import Live, NotShown
from app.runtime.outputs import encode
from app.runtime.pipeline import DEFAULT_MAX_WORKERS, PipelineLoop, PipelinePorts
from app.runtime.python_flow import entry_point, run_python_as_task
from app.runtime.steps import StepRunner
from app.runtime.stop import StopSignal
from app.runtime.usage import Budget, Usage


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at an execution. `saved` is what earlier attempts have stored."""

    execution_id: str
    attempt: int
    target_type: str
    target_id: str
    inputs: dict[str, Any]
    config: dict[str, Any]
    saved: SavedState = field(default_factory=SavedState)
    traceparent: str | None = None
    tenant: str = DEFAULT_TENANT

    @property
    def thread_id(self) -> str:
        """The conversation of a graph: the one that the request names, or one for this execution.

        A checkpointer knows no tenants, so every tenant but the default one has its name in front.
        A name from a request cannot have a slash, so it names no conversation of another tenant.
        """
        name = str(self.config.get("thread_id") or self.execution_id)
        return name if self.tenant == DEFAULT_TENANT else f"{self.tenant}/{name}"


@dataclass(frozen=True, slots=True)
class Ports:
    """What a run needs of the process in which it runs.

    `usage` begins with what earlier attempts used, and grows as models answer. `leaked_threads`
    gets the number of the run's threads that ignored its stop and still run, before `execute`
    returns or raises.
    """

    catalog: Catalog
    models: ModelProvider
    stop: StopSignal
    usage: Usage
    report: Callable[[Progress], None]
    save: Save
    leaked_threads: Callable[[int], None]
    log: Callable[..., None]
    live: Live = field(default_factory=NotShown)


def usage_before(stored: Mapping[str, ModelUsage], saved: SavedState) -> Usage:
    """The usage that a run begins with: `stored`, which is what earlier attempts used.

    The first attempt of a retry has none. It begins with the usage of the steps that it takes over.
    """
    usage = Usage(before=stored)
    if not stored:
        for record in saved.records.values():
            for model, used in record.usage.items():
                usage.add_usage(model, used)
    return usage


def execute(run: Run, ports: Ports, result_limit_bytes: int) -> bytes:
    """The outputs as JSON. Raises `RunFailed`, or `Stopped` if `ports.stop` was requested.

    Whatever a flow raises becomes a `RunFailed`; so do `SystemExit` and a `Stopped` that nobody
    requested. Progress is reported in order and never goes back; the caller reports the end.
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
    """The Python flows that a run may call, each once. A pipeline's conditions may skip some."""
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
    """The run's flow if it is an asynchronous Python flow, for `execute_as_task`; else None.

    Loads the flow's code. Never raises: `execute` meets the same error again and reports it.
    """
    agent = catalog.agents.get(run.target_id) if run.target_type == TargetType.AGENT else None
    flow = agent.flow(run.config.get("flow_id")) if agent else None
    with contextlib.suppress(BaseException):
        if isinstance(flow, PythonFlow) and entry_point(flow).only_waits:
            return flow
    return None


async def execute_as_task(run: Run, ports: Ports, result_limit_bytes: int) -> Callable[[], bytes]:
    """Runs the flow of `flow_that_only_waits` in the event loop, without a thread of its own.

    Returns a function that encodes the outputs as `execute` does. Call it in a thread: large
    outputs take long, and the event loop is shared by all runs of the process. Both raise as
    `execute` does.
    """
    with _failures(run, ports):
        agent, flow = _agent(run, ports)
        assert isinstance(flow, PythonFlow)
        with _agent_context(run, ports, agent) as context:
            inputs = with_defaults(agent.inputs, run.inputs)
            returned = await run_python_as_task(flow, inputs, context)

    def encoded() -> bytes:
        with _failures(run, ports):
            return encode(outputs_of_python(returned, context), result_limit_bytes)

    return encoded


@contextlib.contextmanager
def _failures(run: Run, ports: Ports) -> Iterator[None]:
    """Turns every error into `RunFailed`, or into `Stopped` if a stop was requested."""
    try:
        yield
    except BaseException as error:
        # A stopped flow may raise anything on its way out; that is no failure.
        if ports.stop.requested:
            raise Stopped from error
        agent = ports.catalog.agents.get(run.target_id)
        flow = agent.flow(run.config.get("flow_id")) if agent else None
        raise RunFailed.from_error(error, {f"{run.target_type}_id": run.target_id}, flow) from error


def _agent(run: Run, ports: Ports) -> tuple[Agent, Flow]:
    agent = ports.catalog.agents.get(run.target_id) or _missing(run)
    return agent, agent.flow(run.config.get("flow_id")) or _missing(run)


@contextlib.contextmanager
def _agent_context(run: Run, ports: Ports, agent: Agent) -> Iterator[Context]:
    budget = Budget(run.config.get("budget") or {}, ports.usage, counts_calls=True)
    with ports.stop.follower() as stop:
        yield _context(
            run,
            ports,
            budget,
            step_key=agent.id,
            thread_id=run.thread_id,
            stop=stop,
            usage=ports.usage,
            report=ports.report,
            model_override=run.config.get("model_override"),
        )


def _run_pipeline(run: Run, ports: Ports, result_limit_bytes: int) -> dict[str, Any]:
    pipeline = ports.catalog.pipelines.get(run.target_id) or _missing(run)
    # Steps are counted by the pipeline, so `max_steps` must not count model calls as well.
    budget = Budget(run.config.get("budget") or {}, ports.usage, counts_calls=False)

    def run_step(
        agent: Agent, flow: Flow, inputs: dict[str, Any], *, stop: StopSignal, **bound: Any
    ) -> dict[str, Any]:
        with stop.follower() as own:
            # Steps, and items of a batch, are conversations of their own.
            thread_id = f"{run.thread_id}:{bound['step_key']}"
            context = _context(run, ports, budget, stop=own, thread_id=thread_id, **bound)
            return run_flow(agent, flow, with_defaults(agent.inputs, inputs), context)

    return PipelineLoop(
        pipeline,
        with_defaults(pipeline.inputs, run.inputs),
        run.config.get("max_workers", DEFAULT_MAX_WORKERS),
        StepRunner(pipeline, ports.catalog.agents, run.config, run_step, result_limit_bytes),
        PipelinePorts(ports.stop, ports.save, run.saved, ports.usage, budget, ports.leaked_threads),
        result_limit_bytes,
    ).run()


def _context(run: Run, ports: Ports, budget: Budget, *, step_key: str, **bound: Any) -> Context:
    """The context of an agent's run or of one step. `step_key` is unique within the execution."""
    return Context(
        execution_id=run.execution_id,
        attempt=run.attempt,
        config=run.config,
        traceparent=run.traceparent,
        step_key=f"{run.execution_id}:{step_key}",
        models=ports.models,
        budget=budget,
        log=ports.log,
        live=ports.live,
        **bound,
    )


def _missing(run: Run) -> NoReturn:
    # The web process has accepted the start, so the files of its catalog differ from ours.
    raise FlowError(
        f"This worker has no {run.target_type} {run.target_id!r} with the requested flow. Give web "
        "processes and workers the same files, and reload them."
    )
