"""The first execution: what the empty list proposes to start, and the button that starts it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from flask import redirect
from werkzeug.exceptions import NotFound

from app.api.access import needs
from app.api.application import Answer
from app.api.views import service
from app.catalog.model import Agent, Catalog, InputType, Pipeline, PromptFlow, Target
from app.domain.execution import TargetType
from app.domain.key import Scope
from app.pages.blueprint import pages
from app.pages.starting import execution_url, start

PATH = "/ui/first"

_TEXT = "Where is my order 4711? I ordered two lamps on 3 May, and they have not arrived."

_SAMPLES: dict[InputType, Any] = {
    "any": _TEXT,
    "string": _TEXT,
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [_TEXT],
    "object": {"text": _TEXT},
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """An execution that can be started as it is: its target, and inputs of the declared types."""

    type: TargetType
    target_id: str
    description: str
    inputs: dict[str, Any]

    @property
    def body(self) -> str:
        """The same start for the API."""
        fields = {"type": self.type, "target_id": self.target_id, "inputs": self.inputs}
        return json.dumps(fields, ensure_ascii=False, indent=2)


@pages.post(PATH)
@needs(Scope.START)
def start_first() -> Answer:
    """Starts what is proposed, and goes to its page, which shows how it runs."""
    proposed = proposal(service().catalog)
    if proposed is None:
        raise NotFound
    started = start(proposed.type, proposed.target_id, proposed.inputs)
    return cast(Answer, redirect(execution_url(started.execution_id), 303, Response=Answer))


def proposal(catalog: Catalog) -> Proposal | None:
    """The best target to begin with: first pipelines, and first those that need no model."""
    targets: tuple[Target, ...] = (*catalog.pipelines.values(), *catalog.agents.values())
    best = min(targets, key=lambda target: _asks_a_model(target, catalog), default=None)
    if best is None:
        return None
    type = TargetType.PIPELINE if isinstance(best, Pipeline) else TargetType.AGENT
    inputs = {field.name: _SAMPLES[field.type] for field in best.inputs or () if field.needed}
    return Proposal(type, best.id, best.description, inputs)


def _asks_a_model(target: Target, catalog: Catalog) -> bool:
    """Whether one of its flows is a prompt, so that it only runs with a model's server."""
    if isinstance(target, Agent):
        return isinstance(target.flow(), PromptFlow)
    steps = (step for step in target.steps if step.agent)
    flows = (catalog.agents[str(step.agent)].flow(step.flow) for step in steps)
    return any(isinstance(flow, PromptFlow) for flow in flows)
