"""Names that the files give, for those who have to know all of them."""

from __future__ import annotations

from app.catalog.model import Catalog, PromptFlow


def models_of(catalog: Catalog) -> frozenset[str]:
    """Every model that some flow, step or variant names. A request may name others (`model_override`)."""
    flows = [flow for agent in catalog.agents.values() for flow in agent.flows.values()]
    named = {flow.model for flow in flows if isinstance(flow, PromptFlow)}
    for pipeline in catalog.pipelines.values():
        named |= {step.model_override for step in pipeline.steps}
        named |= {
            override.get("model")
            for steps in pipeline.variants.values()
            for override in steps.values()
        }
    return frozenset(name for name in named if name)
