"""The pages of what can be run: the list of agents and pipelines, and one of them with its form."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, cast

from flask import Response, current_app, redirect, request
from marshmallow import fields
from marshmallow.validate import OneOf

from app.api.access import identity, needs, tenant
from app.api.application import Answer
from app.api.parsing import Query
from app.api.problems import render_service_error
from app.api.schemas import QuerySchema
from app.api.views import service
from app.catalog.model import Agent, Pipeline, Target
from app.catalog.suggestions import suggested_id
from app.domain import identifiers
from app.domain.errors import FieldError, InvalidRequest, NotFound, ServiceError, StoreUnavailable
from app.domain.execution import Execution, TargetType
from app.domain.key import Scope
from app.pages import graph, target_facts
from app.pages.blueprint import pages
from app.pages.kept import Kept
from app.pages.rendering import answer, page, render
from app.pages.starting import execution_url, start
from app.pages.target_facts import COUNTED, Recent
from app.pages.target_form import Form, form
from app.pages.target_values import entered, read
from app.process.aside import LONG, aside
from app.services.executions import ListQuery

LIST = "/ui/targets"
ONE = f"{LIST}/<any(agent, pipeline):type>/<target_id>"


class _QuerySchema(QuerySchema):
    from_ = fields.String(data_key="from")
    as_ = fields.String(data_key="as", validate=OneOf(["json"]))


_query = Query(_QuerySchema())

_refreshed = Kept()


@pages.get(LIST)
@needs(Scope.READ)
def list_targets() -> Answer:
    catalog = service().catalog
    return page(
        "targets.html",
        pipelines=list(catalog.pipelines.values()),
        agents=list(catalog.agents.values()),
    )


@pages.get(ONE)
@needs(Scope.READ)
def show_target(type: str, target_id: str) -> Answer:
    target, query = _target(type, target_id), _query(request)
    if "HX-Request" in request.headers:
        key = (tenant(), type, target.id)
        return answer(_refreshed.get(key, lambda: _runs(type, target)))
    as_json = "as_" in query
    if "from_" not in query:
        return _shown(type, target, form(target, entered(target, as_json=as_json)))
    again, asked = _asked_before(query["from_"])
    texts = entered(target, asked["inputs"], asked["config"], tags=again.tags, as_json=as_json)
    return _shown(type, target, form(target, texts), again=again)


@pages.post(ONE)
@needs(Scope.START)
def start_target(type: str, target_id: str) -> Response:
    target, texts = _target(type, target_id), request.form.to_dict()
    try:
        body = read(target, type, texts, current_app.config["MAX_TEXT_LENGTH"])
        started = start(TargetType(type), target.id, body["inputs"], body["config"], body["tags"])
    except InvalidRequest as error:
        return _shown(type, target, form(target, texts, error.errors), 400)
    except ServiceError as error:
        refused = render_service_error(error)
        why = [FieldError("", str(error), "invalid")]
        shown = _shown(type, target, form(target, texts, why), refused.status_code)
        shown.retry_after = refused.retry_after
        return shown
    return cast(Response, redirect(execution_url(started.execution_id), 303, Response=Answer))


def _shown(
    type: str, target: Target, filled: Form, status: int = 200, again: Execution | None = None
) -> Answer:
    return page(
        "target.html",
        status,
        type=type,
        target=target,
        url=_url(type, target.id),
        form=filled,
        again=again,
        may_start=Scope.START in identity().scopes,
        recent=_recent(type, target.id),
        drawing=_drawing(target) if isinstance(target, Pipeline) else None,
        steps=target_facts.steps(target) if isinstance(target, Pipeline) else (),
        flows=target_facts.flows(target) if isinstance(target, Agent) else (),
    )


def _runs(type: str, target: Target) -> str:
    """The part of the page with the last runs."""
    recent, url = _recent(type, target.id), _url(type, target.id)
    return render("target_runs.html", type=type, target=target, url=url, recent=recent)


def _drawing(pipeline: Pipeline) -> graph.Drawing | None:
    """The drawing, which one process computes once: a large one takes a tenth of a second."""
    drawings = current_app.extensions.setdefault("drawings", {})
    if pipeline.id not in drawings:
        drawings[pipeline.id] = aside(LONG, graph.draw, pipeline)
    return cast("graph.Drawing | None", drawings[pipeline.id])


def _target(type: str, target_id: str) -> Target:
    catalog = service().catalog
    known = catalog.pipelines if type == TargetType.PIPELINE else catalog.agents
    if target_id not in known:
        near = suggested_id(target_id, list(known))
        raise NotFound(f"There is no {type} with this id.{near}")
    return known[target_id]


def _url(type: str, target_id: str) -> str:
    return f"{LIST}/{type}/{target_id}"  # an id has no character that a URL would have to escape


def _recent(type: str, target_id: str) -> Recent | None:
    """The last runs; None if the store does not answer. The form can be filled in all the same."""
    query = ListQuery(
        type=TargetType(type),
        target_id=target_id,
        page_size=COUNTED,
        tenant=tenant(),
        with_attempts=True,
    )
    try:
        found = service().list(query)
    except StoreUnavailable:
        return None
    return target_facts.recent(found.executions, found.total_items, datetime.now(UTC))


def _asked_before(execution_id: str) -> tuple[Execution, dict[str, Any]]:
    """An execution, and the inputs and config that it was started with, to begin a form with."""
    if not identifiers.PATTERN.fullmatch(execution_id):
        raise NotFound("There is no execution with this id.")
    with ExitStack() as held:
        execution = service().get(execution_id, tenant(), held=held)
        asked = service().request_of(execution, ("inputs", "config"), held)
        return execution, {name: json.loads(text) for name, text in asked.items()}
