"""The endpoints to start, retry, get, list and cancel executions.

Each view gets what its readers read, calls `ExecutionService`, and writes the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from app.api import examples, idempotency, polling, receipts, waiting
from app.api.access import identity, needs, tenant
from app.api.answer_schemas import (
    CancelledSchema,
    ExecutionSchema,
    PageSchema,
    StartedSchema,
    StepsSchema,
)
from app.api.blueprint import ApiBlueprint, Success
from app.api.parsing import Body, Headers, Query
from app.api.problems import Problem
from app.api.schemas import (
    IDEMPOTENCY_KEY,
    IF_NONE_MATCH,
    CancelSchema,
    ListQuerySchema,
    RetrySchema,
    StartHeadersSchema,
    StartSchema,
    StatusHeadersSchema,
    StatusQuerySchema,
    StepsQuerySchema,
)
from app.api.views import checked_id, json_answer, kept, service
from app.domain.errors import ServiceError
from app.domain.execution import (
    CALLBACK_EVENTS,
    Callback,
    Include,
    Status,
    TargetType,
)
from app.domain.key import Scope
from app.services import serializers
from app.services.executions import ListQuery, RetryCommand
from app.services.starts import StartCommand
from app.store.large_texts import Held

blueprint = ApiBlueprint(
    "executions",
    __name__,
    url_prefix="/api/v1",
    description="Start, follow, list, retry and cancel executions.",
)

_start_headers = Headers(StartHeadersSchema())

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
    Success(202, StartedSchema, examples.STARTED, headers=receipts.HEADERS),
    receipts.ENDED,
    reads=(Body(StartSchema(), examples=examples.STARTS), _start_headers),
    problems=_START_PROBLEMS,
)
@needs(Scope.START)
def start_execution(body: dict[str, Any], headers: dict[str, str]) -> Response:
    """Start an execution

    A 202 means that the execution is stored and queued. Poll `status_url` to follow it. With an
    `Idempotency-Key` the request is safe to repeat: a repeat starts nothing and gets the first
    answer again. With `Prefer: wait=N` the answer may wait for the end.
    """
    return receipts.answer(service().start(_command(body, headers)), body, headers)


def earlier_start() -> Response | None:
    """The first answer, if the present request repeats a start or retry with its idempotency key.

    None for any other request. `app.api.limits` calls it before the view, which is not run. It does
    not wait: a caller beyond its limit gets no place among those who do.
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
    return receipts.accepted(earlier) if earlier else None


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
    Success(202, StartedSchema, examples.RETRIED, headers=receipts.HEADERS),
    receipts.ENDED,
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
    receipt = service().retry(_retry_command(body, headers, execution_id))
    return receipts.answer(receipt, body, headers)


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
    Success(200, ExecutionSchema, examples=examples.EXECUTIONS, headers=polling.HEADERS),
    Success(
        304,
        headers=polling.HEADERS,
        description="The version is one of those in `If-None-Match`.",
    ),
    reads=(Query(StatusQuerySchema()), Headers(StatusHeadersSchema())),
    problems=("not_found", "too_many_large"),
)
@needs(Scope.READ)
def get_execution(query: dict[str, Any], headers: dict[str, str], execution_id: str) -> Response:
    """Get an execution's status, progress and outputs

    To follow it: poll with `If-None-Match`, which costs little, and heed `Retry-After`; or wait for
    the end or the next change with `wait`.
    """
    id, waited = checked_id(execution_id), _waited(execution_id, query)
    if IF_NONE_MATCH in headers:
        glance = service().glance(id, tenant())
        if not_modified := polling.not_modified(request, glance, waited):
            return not_modified
    parts = set(query["include"].split(",")) if "include" in query else set()
    with_steps = "steps" in parts
    include = Include.STEPS if with_steps else Include.STATUS
    with Held() as held:
        execution = service().get(id, tenant(), include, held)
        asked = service().request_of(execution, sorted(parts & {"inputs", "config"}), held)
        body = serializers.execution(execution, with_steps=with_steps, asked=asked)
        return kept(held, json_answer(body, headers=polling.headers(execution, waited)))


def _waited(execution_id: str, query: dict[str, Any]) -> float:
    """Waits as the query asks for; returns the seconds."""
    seconds, since = query.get("wait", 0), query.get("since_version")
    if not seconds:
        return 0
    wait, owner = service().wait, tenant()
    return waiting.timed(lambda caller: wait(execution_id, owner, seconds, caller, since))


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
        return kept(
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
