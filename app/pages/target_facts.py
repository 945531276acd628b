"""What the page of a target shows of it: its last runs with their figures, its steps or its flows.

Pure functions; `targets` calls them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from app.catalog.model import Agent, Flow, Pipeline, PromptFlow, Step
from app.domain.execution import Execution, Status
from app.pages import executions, graph

COUNTED = 50
"""How many of the last runs the figures are of."""

ROWS = 10
"""How many of them are shown."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The last runs of a target. `completed` of the `judged` ones did; a cancelled one is not
    judged. `median_seconds` is of the completed ones.
    """

    rows: tuple[executions.Row, ...]
    total: int
    judged: int
    completed: int
    median_seconds: float | None

    @property
    def success_rate(self) -> float | None:
        """From 0.0 to 100.0; None if no run was judged."""
        return 100 * self.completed / self.judged if self.judged else None


def recent(found: Iterable[Execution], total: int, now: datetime) -> Recent:
    """Computes the figures of the last runs, the newest of which comes first."""
    runs = tuple(found)
    completed = [run for run in runs if run.status is Status.COMPLETED]
    failed = [run for run in runs if run.status is Status.FAILED]
    seconds = [took for run in completed if (took := run.run_seconds(now)) is not None]
    return Recent(
        rows=tuple(executions.row(run, now) for run in runs[:ROWS]),
        total=total,
        judged=len(completed) + len(failed),
        completed=len(completed),
        median_seconds=median(seconds) if seconds else None,
    )


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step in the table below the drawing."""

    id: str
    description: str
    agent: str | None
    work: str
    reads: tuple[tuple[str, str], ...]
    after: tuple[str, ...]
    output_key: str
    marks: tuple[tuple[str, str], ...]
    result: str | None


def steps(pipeline: Pipeline) -> tuple[StepRow, ...]:
    labels = {output.key: output.label or output.key for output in pipeline.outputs}
    return tuple(_step(step, labels.get(step.output_key)) for step in pipeline.steps)


def _step(step: Step, result: str | None) -> StepRow:
    return StepRow(
        id=step.id,
        description=step.description,
        agent=step.agent,
        work=graph.work(step),
        reads=tuple((name, str(source)) for name, source in step.input_mapping.items()),
        after=tuple(sorted(step.depends_on)),
        output_key=step.output_key,
        marks=tuple(graph.marks(step)),
        result=result,
    )


@dataclass(frozen=True, slots=True)
class FlowRow:
    name: str
    kind: str
    where: str
    is_default: bool


def flows(agent: Agent) -> tuple[FlowRow, ...]:
    return tuple(_flow(flow, flow is agent.flow()) for flow in agent.flows.values())


def _flow(flow: Flow, is_default: bool) -> FlowRow:
    kind = "a prompt to a model" if isinstance(flow, PromptFlow) else "Python code"
    is_fresh = not isinstance(flow, PromptFlow) and flow.fresh
    where = "a fresh process" if is_fresh else f"a {flow.isolation}"
    return FlowRow(flow.name, kind, where, is_default)
