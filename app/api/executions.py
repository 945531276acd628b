"""The endpoints to start, retry, get, list and cancel executions.

Each view gets what its readers read, calls `ExecutionService`, and writes the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from app.api import examples, idempotency, quotas
from app.api.access import identity, needs, tenant
from app.api.blueprint import ApiBlueprint, Success
from app.api.parsing import Body, Headers, Query
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
from app.api.views import checked_id, json_answer, service
from app.domain.errors import ServiceError
from app.domain.execution import (
    CALLBACK_EVENTS,
    Callback,
    Include,
    Started,
    Status,
    TargetType,
)
from app.domain.key import Scope
from app.services import serializers
from app.services.executions import ListQuery, RetryCommand, StartCommand
from app.store.large_texts import Held

blueprint = ApiBlueprint(
    "executions",
    __name__,
    url_prefix="/api/v1",
    description="Start, follow, list, retry and cancel executions.",
)

_start_headers = Headers(StartHeadersSchema())

_STARTED_HEADERS = {
    "Location": {
        "description": "The `status_url`.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "Present if this is the answer to an earlier start with the same "
        "`Idempotency-Key`.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}

_BODY_PROBLEMS = ("invalid_json", "not_found", "body_too_large", "unsupported_media_type")
_START_PROBLEMS = (
    *_BODY_PROBLEMS,
    "idempotency_key_reused",
    "too_many_unfinished",
    "store_full",
    "queue_full",
)


@blueprint.operation(
    "POST",
    "/executions",
    Success(202, StartedSchema, examples.STARTED, headers=_STARTED_HEADERS),
    reads=(Body(StartSchema(), examples=examples.STARTS), _start_headers),
    problems=_START_PROBLEMS,
)
@needs(Scope.START)
def start_execution(body: dict[str, Any], headers: dict[str, str]) -> Response:
    """Start an execution

    A 202 means that the execution is stored and queued. Poll `status_url` to follow it. With an
    `Idempotency-Key` the request is safe to repeat: a repeat starts nothing and gets the first
    answer again.
    """
    return _accepted(service().start(_command(body, headers)))


def earlier_start() -> Response | None:
    """The first answer, if the present request repeats a start or retry with its idempotency key.

    None for any other request. `app.api.limits` calls it before the view, which is not run.
    """
    commands: dict[str | None, Callable[..., StartCommand | RetryCommand]] = {
        "executions.start_execution": _command,
        "executions.retry_execution": _retry_command,
    }
    command = commands.get(request.endpoint)
    if command is None or IDEMPOTENCY_KEY not in request.headers:
        return None
    view: Any = current_app.view_functions[str(request.endpoint)]
    try:
        read = [reader(request) for reader in view.reads]
        earlier = service().recall(command(*read, **(request.view_args or {})))
    except (ServiceError, Problem, HTTPException):
        return None  # a request that is not valid is no repeat, and is refused by its limit
    return _accepted(earlier) if earlier else None


def _command(body: dict[str, Any], headers: dict[str, str]) -> StartCommand:
    return StartCommand(
        type=TargetType(body["type"]),
        target_id=body["target_id"],
        inputs=body["inputs"],
        config=body["config"],
        expires_in_seconds=body.get("expires_in"),
        callback=_callback(body),
        tags=tuple(dict.fromkeys(body.get("tags", ()))),
        tenant=tenant(),
        request_id=g.request_id,
        traceparent=g.traceparent,
        idempotency=idempotency.of_request(body, headers, _body_bytes()),
        body_bytes=_body_bytes(),
        sees_targets=Scope.READ in identity().scopes,
    )


def _callback(body: dict[str, Any]) -> Callback | None:
    url, chosen = body.get("callback_url"), body.get("callback_events")
    if url is None:
        return None
    if chosen is None:
        return Callback(url)
    types = [name.removeprefix("execution.") for name in chosen]
    return Callback(url, tuple(type for type in CALLBACK_EVENTS if type in types))


def _body_bytes() -> int:
    """The size of the request's body, or the most it can be if it was sent in chunks."""
    length = request.content_length
    return int(current_app.config["MAX_CONTENT_LENGTH"]) if length is None else length


@blueprint.operation(
    "POST",
    "/executions/<execution_id>/retry",
    Success(202, StartedSchema, examples.RETRIED, headers=_STARTED_HEADERS),
    reads=(Body(RetrySchema(), optional=True, examples=examples.RETRIES), _start_headers),
    problems=(*_START_PROBLEMS, "not_retryable", "too_much_retried"),
)
@needs(Scope.START)
def retry_execution(body: dict[str, Any], headers: dict[str, str], execution_id: str) -> Response:
    """Start a failed or cancelled execution again

    Starts a new execution with the same inputs. It keeps the finished steps of a pipeline, unless
    `from` is `start`. Fields in `config` replace those of the first start. With an
    `Idempotency-Key` the request is safe to repeat.
    """
    return _accepted(service().retry(_retry_command(body, headers, execution_id)))


def _retry_command(
    body: dict[str, Any], headers: dict[str, str], execution_id: str
) -> RetryCommand:
    return RetryCommand(
        execution_id=checked_id(execution_id),
        from_start=body["from_"] == "start",
        config=body["config"],
        tenant=tenant(),
        request_id=g.request_id,
        traceparent=g.traceparent,
        idempotency=idempotency.of_request(
            {"retry_of": execution_id, **body}, headers, _body_bytes()
        ),
    )


@blueprint.operation(
    "GET",
    "/executions/<execution_id>",
    Success(200, ExecutionSchema, examples=examples.EXECUTIONS),
    reads=(Query(StatusQuerySchema()),),
    problems=("not_found", "too_many_large"),
)
@needs(Scope.READ)
def get_execution(query: dict[str, Any], execution_id: str) -> Response:
    """Get an execution's status, progress and outputs"""
    parts = set(query["include"].split(",")) if "include" in query else set()
    with_steps = "steps" in parts
    include = Include.STEPS if with_steps else Include.STATUS
    with Held() as held:
        execution = service().get(checked_id(execution_id), tenant(), include, held)
        asked = service().request_of(execution, sorted(parts & {"inputs", "config"}), held)
        body = serializers.execution(execution, with_steps=with_steps, asked=asked)
        return _kept(held, json_answer(body))


@blueprint.operation(
    "GET",
    "/executions/<execution_id>/steps",
    Success(200, StepsSchema, examples.STEPS),
    reads=(Query(StepsQuerySchema()),),
    problems=("not_found", "too_many_large"),
)
@needs(Scope.READ)
def get_steps(query: dict[str, Any], execution_id: str) -> Response:
    """Get the status of every step

    Steps are in the order of the pipeline's file. An agent's execution has one step, the agent.
    """
    include = Include(query.get("include", Include.STEPS))
    with Held() as held:
        execution = service().get(checked_id(execution_id), tenant(), include, held)
        return _kept(
            held, json_answer(serializers.steps(execution, with_outputs=include is Include.OUTPUTS))
        )


@blueprint.operation(
    "GET", "/executions", Success(200, PageSchema, examples.PAGE), reads=(Query(ListQuerySchema()),)
)
@needs(Scope.READ)
def list_executions(query: dict[str, Any]) -> Response:
    """List executions, newest first

    The totals are exact. A page after the last one is empty.
    """
    found = service().list(
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
    return json_answer(json.dumps(serializers.page(found)))


@blueprint.operation(
    "POST",
    "/executions/<execution_id>/cancel",
    Success(200, CancelledSchema, examples.CANCELLED),
    Success(202, CancelledSchema, examples.CANCELLING),
    reads=(Body(CancelSchema(), optional=True, examples=examples.CANCELS),),
    problems=(*_BODY_PROBLEMS, "already_ended"),
)
@needs(Scope.CANCEL)
def cancel_execution(_: dict[str, Any], execution_id: str) -> Response:
    """Cancel an execution

    Waits up to five seconds for the end. 200 means that the execution has ended as cancelled. 202
    means that it is still being cancelled: ask for its status again.
    """
    execution = service().cancel(checked_id(execution_id), tenant())
    status = 200 if execution.status is Status.CANCELLED else 202
    return json_answer(json.dumps(serializers.cancelled(execution)), status)


def _accepted(receipt: Started) -> Response:
    quotas.note_unfinished(service().settings.max_unfinished, receipt.unfinished)
    answer = serializers.started(receipt)
    replayed = idempotency.REPLAYED if receipt.replayed else {}
    return json_answer(json.dumps(answer), 202, {"Location": answer["status_url"], **replayed})


def _kept(held: Held, response: Response) -> Response:
    """Keeps large outputs in memory until the response has been sent."""
    if held.used:
        response.call_on_close(held.pop_all().close)
    return response
