"""`python -m app.catalog check`: validates all agents and pipelines, and draws their graphs.

Operators run it before they restart the service with changed files.
"""

from __future__ import annotations

import graphlib
import sys
from collections.abc import Iterator

from app.catalog.loader import load
from app.catalog.model import Catalog, Flow, Pipeline, PromptFlow, Step
from app.domain.errors import ConfigurationError
from app.settings import Settings
from app.settings import load as load_settings


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 if all files are valid, 1 with their errors, 2 for wrong usage."""
    if arguments != ["check"]:
        print("usage: python -m app.catalog check", file=sys.stderr)
        return 2
    try:
        settings = load_settings()
        catalog = load(settings.agents_path, settings.pipelines_path)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    for line in (*overview(catalog), "", *capacity(settings)):
        print(line)
    return 0


def overview(catalog: Catalog) -> Iterator[str]:
    """A line for each agent with its flows, the default one first, then each pipeline's graph.

    Behind each name is where it runs.
    """
    for agent in catalog.agents.values():
        others = sorted(agent.flows.keys() - {agent.default_flow})
        names = [f"{name} ({_kind(agent.flows[name])})" for name in (agent.default_flow, *others)]
        yield f"agent {agent.id}: {', '.join(names)}"
    for pipeline in catalog.pipelines.values():
        yield ""
        outputs = ", ".join(output.key for output in pipeline.outputs)
        yield f"pipeline {pipeline.id} ({_kind(pipeline)}) -> {outputs}"
        yield from draw(pipeline)


def _kind(what: Flow | Pipeline) -> str:
    is_fresh = not isinstance(what, PromptFlow) and what.fresh
    return "fresh process" if is_fresh else what.isolation


def capacity(settings: Settings) -> Iterator[str]:
    """How many executions of each kind one worker with these settings runs at once."""
    threads, processes = settings.worker_threads, settings.worker_processes
    yield f"One worker runs at once: {threads} of the kind thread (WORKER_THREADS),"
    yield f"and {processes} of the kinds process and fresh process (WORKER_PROCESSES)."


def draw(pipeline: Pipeline) -> Iterator[str]:
    """A line for each step, level by level: the steps of one level can run at the same time."""
    steps = {step.id: step for step in pipeline.steps}
    order = graphlib.TopologicalSorter({step.id: step.depends_on for step in pipeline.steps})
    order.prepare()
    level = 1
    while order.is_active():
        ready = sorted(order.get_ready())
        yield from (f"  {level}. {_arrows(steps[id])}" for id in ready)
        order.done(*ready)
        level += 1


def _arrows(step: Step) -> str:
    """`inputs -> step (agent) -> output key, after dependencies, when condition`."""
    # dict.fromkeys: two inputs may be mapped to one key, which is shown once, in order.
    sources = ", ".join(dict.fromkeys(step.input_mapping.values())) or "nothing"
    work = step.agent or step.aggregation["strategy"]
    line = f"{sources} -> {step.id} ({work}) -> {step.output_key}"
    if step.depends_on:
        line += f", after {', '.join(sorted(step.depends_on))}"
    if step.when:
        line += f", when {step.when}"
    return line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
