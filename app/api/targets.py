"""The endpoints that describe the agents and pipelines, and the list of all endpoints.

`register` writes every answer once, when the process starts; a request only gets what is written,
or 304 if its ETag still matches. Prompts and code of the targets are never shown.
"""

from __future__ import annotations

import json
import re
from typing import Any

from flask import Flask, Response, current_app, request
from marshmallow import Schema

from app.api import examples
from app.api.access import needs
from app.api.blueprint import ApiBlueprint, Success
from app.api.target_schemas import (
    AgentSchema,
    AgentsSchema,
    IndexSchema,
    PipelineSchema,
    PipelinesSchema,
)
from app.catalog.inputs import inputs_schema
from app.catalog.model import Agent, Catalog, Flow, Pipeline, PromptFlow, Step, Target
from app.catalog.suggestions import suggested_id
from app.domain.errors import NotFound
from app.domain.key import Scope

blueprint = ApiBlueprint(
    "targets",
    __name__,
    url_prefix="/api/v1",
    description="The agents and pipelines that can be run.",
)

_IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "description": "The ETag of an earlier answer. The answer is 304 if nothing has changed.",
    "schema": {"type": "string"},
}
_ETAG = {
    "ETag": {
        "description": "The version of this answer, for `If-None-Match`.",
        "required": True,
        "schema": {"type": "string"},
    }
}


def _operation(path: str, schema: type[Schema], example: Any, *problems: str) -> Any:
    """Declares a GET whose answer has an ETag."""
    found = Success(200, schema, example, headers=_ETAG)
    same = Success(304, description="Nothing has changed.")
    codes = (*problems, "precondition_failed")
    return blueprint.operation(
        "GET", path, found, same, problems=codes, parameters=[_IF_NONE_MATCH]
    )


@_operation("", IndexSchema, examples.INDEX)
@needs(Scope.READ)
def list_endpoints() -> Response:
    """List the endpoints"""
    return _answer("", "")


@_operation("/agents", AgentsSchema, {"agents": [examples.AGENT]})
@needs(Scope.READ)
def list_agents() -> Response:
    """List the agents"""
    return _answer("agents", "")


@_operation("/agents/<agent_id>", AgentSchema, examples.AGENT, "not_found")
@needs(Scope.READ)
def get_agent(agent_id: str) -> Response:
    """Get an agent's inputs and flows"""
    return _answer("agent", agent_id)


@_operation("/pipelines", PipelinesSchema, {"pipelines": [examples.PIPELINE]})
@needs(Scope.READ)
def list_pipelines() -> Response:
    """List the pipelines"""
    return _answer("pipelines", "")


@_operation("/pipelines/<pipeline_id>", PipelineSchema, examples.PIPELINE, "not_found")
@needs(Scope.READ)
def get_pipeline(pipeline_id: str) -> Response:
    """Get a pipeline's inputs, steps and outputs"""
    return _answer("pipeline", pipeline_id)


def register(app: Flask, catalog: Catalog) -> None:
    """Writes the answers. Call it after all routes are added, since one answer lists them."""
    agents = {id: _agent(agent) for id, agent in catalog.agents.items()}
    pipelines = {id: _pipeline(pipeline, catalog) for id, pipeline in catalog.pipelines.items()}
    answers: dict[tuple[str, str], Any] = {
        ("", ""): _index(app),
        ("agents", ""): {"agents": list(agents.values())},
        ("pipelines", ""): {"pipelines": list(pipelines.values())},
        **{("agent", id): body for id, body in agents.items()},
        **{("pipeline", id): body for id, body in pipelines.items()},
    }
    # `default=str`, since the default of an input in a YAML file may contain a date.
    app.extensions["targets"] = {
        name: json.dumps(body, default=str).encode() for name, body in answers.items()
    }


def _answer(kind: str, id: str) -> Response:
    answers = current_app.extensions["targets"]
    body = answers.get((kind, id))
    if body is None:
        near = suggested_id(id, [known for known_kind, known in answers if known_kind == kind])
        raise NotFound(f"There is no {kind} with this id.{near}")
    response = Response(body, content_type="application/json")
    response.add_etag()
    response.make_conditional(request)
    return response


def _index(app: Flask) -> dict[str, Any]:
    """Lists every route with the first line of its view's docstring, which describes it."""
    endpoints = [
        {
            "method": method,
            "path": re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule),
            "description": (app.view_functions[rule.endpoint].__doc__ or "").partition("\n")[0],
        }
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(blueprint.url_prefix)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    return {
        "version": app.config["API_VERSION"],
        "openapi_url": "/openapi.json",
        "docs_url": "/docs/",
        "endpoints": sorted(endpoints, key=lambda endpoint: (endpoint["path"], endpoint["method"])),
    }


def _described(target: Target, type: str) -> dict[str, Any]:
    return {
        "id": target.id,
        "type": type,
        "name": target.name or target.id,
        "description": target.description,
        "version": target.version,
        "inputs": inputs_schema(target.inputs),
    }


def _agent(agent: Agent) -> dict[str, Any]:
    default = agent.flow()
    return {
        **_described(agent, "agent"),
        "flows": [_flow(flow, flow is default) for flow in agent.flows.values()],
    }


def _flow(flow: Flow, default: bool) -> dict[str, Any]:
    kind = "prompt" if isinstance(flow, PromptFlow) else "python"
    return {"name": flow.name, "kind": kind, "isolation": flow.isolation, "default": default}


def _pipeline(pipeline: Pipeline, catalog: Catalog) -> dict[str, Any]:
    return {
        **_described(pipeline, "pipeline"),
        "steps": [_step(step, catalog) for step in pipeline.steps],
        "outputs": [{"key": output.key, "label": output.label} for output in pipeline.outputs],
        "variants": sorted(pipeline.variants),
    }


def _step(step: Step, catalog: Catalog) -> dict[str, Any]:
    body: dict[str, Any] = {"id": step.id, "type": step.type, "description": step.description}
    if step.agent is not None:
        flow = catalog.agents[step.agent].flow(step.flow)
        body |= {"agent": step.agent, "flow": flow.name if flow else step.flow}
    return {
        **body,
        "depends_on": sorted(step.depends_on),
        "required": step.required,
        "output_key": step.output_key,
    }
