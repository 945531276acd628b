"""`python -m app.catalog check`: validates all agents and pipelines, and draws their graphs.

Operators run it before they restart the service with changed files. It also imports the entry
points of Python flows, in a process of its own. What is only probably wrong is a warning.
"""

from __future__ import annotations

import graphlib
import sys
from collections.abc import Iterator

from app.catalog import imports
from app.catalog.loader import load
from app.catalog.model import Catalog, Flow, Pipeline, PromptFlow, Source, Step
from app.domain.errors import ConfigurationError
from app.settings import Settings
from app.settings import load as load_settings

ENTRYPOINTS = "--entrypoints"
"""Says only which entry points cannot be imported: for `make run`, beside the running service."""


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 if all files are valid, 1 with their errors, 2 for wrong usage."""
    if arguments not in (["check"], ["check", ENTRYPOINTS]):
        print(f"usage: python -m app.catalog check [{ENTRYPOINTS}]", file=sys.stderr)
        return 2
    try:
        settings = load_settings()
        catalog = load(settings.agents_path, settings.pipelines_path)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    only_entrypoints = ENTRYPOINTS in arguments
    for warning in [] if only_entrypoints else catalog.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    failing = list(imports.problems(catalog))
    for problem in failing:
        print(problem, file=sys.stderr, flush=True)
    shown = [] if failing or only_entrypoints else [*overview(catalog), "", *capacity(settings)]
    for line in shown:
        print(line)
    return 1 if failing else 0


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
    sources = ", ".join(dict.fromkeys(_source(*pair) for pair in step.input_mapping.items()))
    sources = sources or "nothing"
    work = step.agent or step.aggregation["strategy"]
    line = f"{sources} -> {step.id} ({work}) -> {step.output_key}"
    if step.depends_on:
        line += f", after {', '.join(sorted(step.depends_on))}"
    if step.when:
        line += f", when {step.when}"
    return line


def _source(name: str, source: Source) -> str:
    """A key or a part of it as it is written; a constant with the input that it is for."""
    return f"{name}={source}" if source.key is None else str(source)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
