"""`python -m app.catalog check`: validates all agents and pipelines, and prints each pipeline's graph."""

from __future__ import annotations

import graphlib
import sys
from collections.abc import Iterator

from app.catalog.loader import load
from app.catalog.model import Pipeline
from app.errors import ConfigurationError
from app.settings import load as load_settings


def main() -> None:
    if sys.argv[1:] != ["check"]:
        sys.exit("usage: python -m app.catalog check")
    try:
        settings = load_settings()
        catalog = load(settings.agents_path, settings.pipelines_path)
    except ConfigurationError as error:
        sys.exit(str(error))
    for agent in catalog.agents.values():
        print(f"agent {agent.id}: {', '.join(agent.flows)}")
    for pipeline in catalog.pipelines.values():
        print(f"pipeline {pipeline.id}")
        for line in draw(pipeline):
            print(f"  {line}")


def draw(pipeline: Pipeline) -> Iterator[str]:
    """A line for each step, in waves: what stands in one wave may run side by side."""
    steps = {step.id: step for step in pipeline.steps}
    order = graphlib.TopologicalSorter({step.id: step.depends_on for step in pipeline.steps})
    order.prepare()
    wave = 1
    while order.is_active():
        ready = sorted(order.get_ready())
        for id in ready:
            waits = " <- " + ", ".join(sorted(steps[id].depends_on)) if steps[id].depends_on else ""
            yield f"{wave}. {id} ({steps[id].agent or steps[id].type}){waits} => {steps[id].output_key}"
        order.done(*ready)
        wave += 1


if __name__ == "__main__":
    main()
