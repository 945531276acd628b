"""The endpoints for executions. Each view reads its request, calls the service, and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

from flask import Response, current_app, g, request
from marshmallow import Schema
from werkzeug.exceptions import HTTPException

from app.api import bodies, examples, idempotency, quotas
from app.api.access import needs, tenant
from app.api.blueprint import ApiBlueprint
from app.api.parsing import StrictParser
from app.api.problems import Problem
from app.api.schemas import (
    IDEMPOTENCY_KEY,
    CancelledSchema,
    CancelSchema,
    ExecutionSchema,
    ListQuerySchema,
    PageSchema,
    RetrySchema,
    StartedSchema,
    StartHeadersSchema,
    StartSchema,
    StatusQuerySchema,
    StepsQuerySchema,
    StepsSchema,
)
from app.errors import ServiceError
from app.executions import identifiers
from app.executions.model import Include, Started, Status, TargetType
from app.executions.service import ExecutionService, ListQuery, RetryCommand, StartCommand
from app.keys.model import Scope

blueprint = ApiBlueprint("executions", __name__, url_prefix="/api/v1", description="Start, follow, list and cancel.")

_start, _start_headers, _retry, _cancel = StartSchema(), StartHeadersSchema(), RetrySchema(), CancelSchema()
_list, _status, _steps = ListQuerySchema(), StatusQuerySchema(), StepsQuerySchema()

_STARTED_HEADERS = {
    "Location": {"description": "The `status_url`.", "required": True, "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "There where this is the answer of an earlier start with the same `Idempotency-Key`.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}

_documented = blueprint.documented


@blueprint.route("/executions", methods=["POST"])
@blueprint.arguments(_start, examples=examples.STARTS)
@blueprint.arguments(_start_headers, location="headers")
@_documented(
    *("invalid_json", "not_found", "body_too_large", "unsupported_media_type"),
    *("idempotency_key_reused", "too_many_unfinished", "store_full", "queue_full"),
    status_code=202,
    schema=StartedSchema,
    example=examples.STARTED,
    headers=_STARTED_HEADERS,
)
@needs(Scope.START)
def start_execution(body: dict[str, Any], headers: dict[str, str]) -> Response:
    """Start an execution

    It is stored and queued when the answer is 202; follow it at `status_url`. With an `Idempotency-Key` it may
    be repeated: that starts nothing, and is answered as the first time.
    """
    return _accepted(_service().start(_command(body, headers)))


def earlier_start() -> Response | None:
    """The answer to a start or retry that is repeated with its idempotency key; None for any other request."""
    asked: dict[str | None, tuple[Schema, Callable[..., StartCommand | RetryCommand]]] = {
        "executions.start_execution": (_start, _command),
        "executions.retry_execution": (_retry, _retry_command),
    }
    if request.endpoint not in asked or IDEMPOTENCY_KEY not in request.headers:
        return None
    schema, command = asked[request.endpoint]
    try:
        body = StrictParser().parse(schema, location="json")
        headers = StrictParser().parse(_start_headers, location="headers")
        earlier = _service().recall(command(body, headers, **(request.view_args or {})))
    except (ServiceError, Problem, HTTPException):
        return None
    return _accepted(earlier) if earlier else None


def _command(body: dict[str, Any], headers: dict[str, str]) -> StartCommand:
    return StartCommand(
        type=TargetType(body["type"]),
        target_id=body["target_id"],
        inputs=body["inputs"],
        config=body["config"],
        expires_in_seconds=body.get("expires_in"),
        tenant=tenant(),
        request_id=g.request_id,
        traceparent=g.traceparent,
        idempotency=idempotency.of_request(body, headers, _body_bytes()),
        body_bytes=_body_bytes(),
    )


def _body_bytes() -> int:
    """How large the request's body is, at most."""
    length = request.content_length
    return int(current_app.config["MAX_CONTENT_LENGTH"]) if length is None else length


@blueprint.route("/executions/<execution_id>/retry", methods=["POST"])
@blueprint.arguments(_retry, required=False, examples=examples.RETRIES)
@blueprint.arguments(_start_headers, location="headers")
@_documented(
    *("invalid_json", "not_retryable", "not_found", "body_too_large", "unsupported_media_type"),
    "idempotency_key_reused",
    *("too_many_unfinished", "too_much_retried", "store_full", "queue_full"),
    status_code=202,
    schema=StartedSchema,
    example=examples.RETRIED,
    headers=_STARTED_HEADERS,
)
@needs(Scope.START)
def retry_execution(body: dict[str, Any], headers: dict[str, str], execution_id: str) -> Response:
    """Start a failed or cancelled execution again

    As a new execution, which takes over the finished steps of a pipeline, unless it is asked for from the
    `start`. What is in `config` replaces what was asked for then. An `Idempotency-Key` makes it safe to repeat.
    """
    return _accepted(_service().retry(_retry_command(body, headers, execution_id)))


def _retry_command(body: dict[str, Any], headers: dict[str, str], execution_id: str) -> RetryCommand:
    return RetryCommand(
        execution_id=_known_form(execution_id),
        from_start=body["from_"] == "start",
        config=body["config"],
        tenant=tenant(),
        request_id=g.request_id,
        traceparent=g.traceparent,
        idempotency=idempotency.of_request({"retry_of": execution_id, **body}, headers, _body_bytes()),
    )


@blueprint.route("/executions/<execution_id>", methods=["GET"])
@blueprint.arguments(_status, location="query")
@_documented("not_found", "too_many_large", status_code=200, schema=ExecutionSchema, examples=examples.EXECUTIONS)
@needs(Scope.READ)
def get_execution(query: dict[str, Any], execution_id: str) -> Response:
    """Get an execution's status, progress and outputs"""
    include = Include(query.get("include", Include.STATUS))
    with ExitStack() as held:
        execution = _service().get(_known_form(execution_id), tenant(), include, held)
        response = _json(bodies.execution(execution, with_steps=include is Include.STEPS))
        response.call_on_close(held.pop_all().close)
    return response


@blueprint.route("/executions/<execution_id>/steps", methods=["GET"])
@blueprint.arguments(_steps, location="query")
@_documented("not_found", "too_many_large", status_code=200, schema=StepsSchema, example=examples.STEPS)
@needs(Scope.READ)
def get_steps(query: dict[str, Any], execution_id: str) -> Response:
    """Get what became of each step

    In the order of the pipeline's file. An agent's execution has one step, the agent.
    """
    include = Include(query.get("include", Include.STEPS))
    with ExitStack() as held:
        execution = _service().get(_known_form(execution_id), tenant(), include, held)
        response = _json(bodies.steps(execution, with_outputs=include is Include.OUTPUTS))
        response.call_on_close(held.pop_all().close)
    return response


@blueprint.route("/executions", methods=["GET"])
@blueprint.arguments(_list, location="query")
@_documented(status_code=200, schema=PageSchema, example=examples.PAGE)
@needs(Scope.READ)
def list_executions(query: dict[str, Any]) -> Response:
    """List executions, newest first

    The totals are exact. A page past the end is empty.
    """
    found = _service().list(
        ListQuery(
            status=Status(query["status"]) if "status" in query else None,
            type=TargetType(query["type"]) if "type" in query else None,
            target_id=query.get("target_id"),
            page=query["page"],
            page_size=query["page_size"],
            descending=query["order"] == "desc",
            tenant=tenant(),
        )
    )
    return _json(json.dumps(bodies.page(found)))


@blueprint.route("/executions/<execution_id>/cancel", methods=["POST"])
@blueprint.arguments(_cancel, required=False, examples=examples.CANCELS)
@_documented(
    *("invalid_json", "already_ended", "not_found", "body_too_large", "unsupported_media_type"),
    status_code=200,
    schema=CancelledSchema,
    example=examples.CANCELLED,
)
@blueprint.alt_response(202, schema=CancelledSchema, example=examples.CANCELLING)
@needs(Scope.CANCEL)
def cancel_execution(_: dict[str, Any], execution_id: str) -> Response:
    """Cancel an execution

    200 once it has really ended as cancelled, 202 where that takes longer than five seconds: then ask again.
    """
    execution = _service().cancel(_known_form(execution_id), tenant())
    status = 200 if execution.status is Status.CANCELLED else 202
    return _json(json.dumps(bodies.cancelled(execution)), status)


def _accepted(receipt: Started) -> Response:
    quotas.note_unfinished(_service().settings.max_unfinished, receipt.unfinished)
    answer = bodies.started(receipt)
    replayed = idempotency.REPLAYED if receipt.replayed else {}
    return _json(json.dumps(answer), 202, {"Location": answer["status_url"], **replayed})


def _service() -> ExecutionService:
    return cast(ExecutionService, current_app.extensions["executions"])


def _known_form(execution_id: str) -> str:
    """What is no id at all is not looked up."""
    if not identifiers.PATTERN.fullmatch(execution_id):
        raise Problem(404, "not_found", "There is no execution with this id.")
    return execution_id


def _json(text: str | bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, headers, content_type="application/json")
