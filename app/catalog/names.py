"""Collects the names of all models in the files, for the metrics, which have a label `model`."""

from __future__ import annotations

from app.catalog.model import Catalog, PromptFlow


def models_of(catalog: Catalog) -> frozenset[str]:
    """Every model that a flow, a step or a variant names.

    A request may name other ones (`model_override`); those are not among them.
    """
    flows = [flow for agent in catalog.agents.values() for flow in agent.flows.values()]
    named = {flow.model for flow in flows if isinstance(flow, PromptFlow)}
    for pipeline in catalog.pipelines.values():
        named |= {step.model_override for step in pipeline.steps}
        for steps in pipeline.variants.values():
            named |= {override.get("model") for override in steps.values()}
    return frozenset(name for name in named if name)
