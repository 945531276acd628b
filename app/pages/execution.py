"""The page of one execution: what it does now, what it did, and what a person can do with it."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast
from urllib.parse import quote

from flask import Response, g, redirect, request

from app.api import event_stream, streams
from app.api.access import identity, needs, tenant
from app.api.application import Answer
from app.api.views import Held, checked_id, json_answer, kept, service
from app.catalog.model import Pipeline, Target
from app.domain.delivery import DeliveryPage
from app.domain.errors import AlreadyEnded, InvalidRequest
from app.domain.events import Event
from app.domain.execution import Execution, Include, TargetType
from app.domain.key import Scope
from app.pages import execution_facts, json_tree, transcript, waterfall
from app.pages.blueprint import pages
from app.pages.execution_facts import Partial, curl
from app.pages.rendering import page
from app.pages.starting import execution_url
from app.pages.targets import LIST as TARGETS
from app.services import deliveries, serializers
from app.services.executions import RetryCommand
from app.services.streams import Gap, Snapshot

ONE = "/ui/executions/<execution_id>"

LOG_EVENTS = 1000
"""How many of the last events are read for the page. A stream brings what follows."""

_EVENT_NUMBER = re.compile(r"[0-9]{1,15}")
_ADDED = {"output.delta": "answer", "log": "line"}
_NO_DELIVERIES = DeliveryPage((), 0)


@pages.get(ONE)
@needs(Scope.READ)
def show_execution(execution_id: str) -> Answer:
    id = checked_id(execution_id)
    with ExitStack() as held:
        execution = _read(id, held)
        values = _live_values(execution)
        if "HX-Request" in request.headers:
            return page("execution_live.html", **values, is_whole=False)
        return page("execution.html", **values, **_lasting_values(execution, held), is_whole=True)


@pages.get(f"{ONE}/json")
@needs(Scope.READ)
def show_json(execution_id: str) -> Response:
    """All of it as the API answers it, which does not know the sessions of people."""
    with Held() as held:
        execution = _read(checked_id(execution_id), held, while_it_runs=Include.OUTPUTS)
        asked = service().request_of(execution, ("config", "inputs"), held)
        with_steps = execution.type is TargetType.PIPELINE
        body = serializers.execution(execution, with_steps=with_steps, asked=asked)
        return kept(held, json_answer(body))


@pages.get(f"{ONE}/events")
@needs(Scope.READ)
def follow_execution(execution_id: str) -> Response:
    """What happens from now on, or after the event `after`, until the end."""
    id = checked_id(execution_id)
    number = request.headers.get("Last-Event-ID") or request.args.get("after", "")
    after = int(number) if _EVENT_NUMBER.fullmatch(number) else None
    stream = streams.logs().follow(id, tenant(), after, None)
    return streams.followed(stream, lambda item: _block(item, id))


@pages.post(f"{ONE}/cancel")
@needs(Scope.CANCEL)
def cancel_execution(execution_id: str) -> Response:
    id = checked_id(execution_id)
    with suppress(AlreadyEnded):  # the page shows how it ended
        service().cancel(id, tenant())
    return _to(id)


@pages.post(f"{ONE}/retry")
@needs(Scope.START)
def retry_execution(execution_id: str) -> Response:
    started = service().retry(
        RetryCommand(
            execution_id=checked_id(execution_id),
            from_start=request.form.get("from") == "start",
            tenant=tenant(),
            request_id=g.request_id,
            traceparent=g.traceparent,
        )
    )
    return _to(started.execution_id)


@pages.post(f"{ONE}/deliveries/<number>/redeliver")
@needs(Scope.START)
def redeliver(execution_id: str, number: str) -> Response:
    id = checked_id(execution_id)
    deliveries.redeliver(service(), id, tenant(), number)
    return _to(id)


def _read(id: str, held: ExitStack, while_it_runs: Include = Include.STEPS) -> Execution:
    """The execution with its outputs, and with its steps if it is one of a pipeline."""
    execution = service().get(id, tenant(), held=held)
    if execution.type is TargetType.AGENT or execution.steps:
        return execution
    held.pop_all().close()  # or many readers would wait for each other's large outputs
    include = Include.STEPS if execution.status.ended else while_it_runs
    return service().get(id, tenant(), include, held)


def _live_values(execution: Execution) -> dict[str, Any]:
    """What the live part shows."""
    now, id = datetime.now(UTC), execution.id
    sent = deliveries.read(service(), id, tenant()) if execution.callback else _NO_DELIVERIES
    is_known = _target(execution) is not None
    return {
        "execution": execution,
        "url": execution_url(id),
        "now": now,
        "facts": execution_facts.facts(execution, sent, identity().scopes, now, is_known=is_known),
        "waterfall": waterfall.waterfall(execution, now, _after(execution), _tries(execution)),
        "partial": _partial(execution),
        "target_url": f"{TARGETS}/{execution.type}/{quote(execution.target_id)}",
    }


def _partial(execution: Execution) -> Partial:
    """The outputs of finished steps."""
    if execution.status.ended or execution.type is TargetType.AGENT:
        return execution_facts.partial(execution)
    done = tuple(step.output_key for step in execution.steps if step.done)
    return _finished_outputs(execution.id, tenant(), done) if done else Partial()


@lru_cache(maxsize=32)
def _finished_outputs(id: str, tenant: str, _: tuple[str, ...]) -> Partial:
    """The same of one that runs. They are read again only if other steps have finished, since they
    may be large and the page is refreshed every second.
    """
    with ExitStack() as held:
        return execution_facts.partial(service().get(id, tenant, Include.OUTPUTS, held))


def _lasting_values(execution: Execution, held: ExitStack) -> dict[str, Any]:
    """What is only in the whole page: it does not change, or a stream adds to it."""
    try:
        asked = service().request_of(execution, ("inputs", "config"), held)
    except InvalidRequest:
        asked = {}
    events, position = _last_events(execution, transcript.TYPES)
    root, with_key = request.host_url.rstrip("/"), identity().key is not None
    body = execution_facts.start_body(execution, asked) if asked else None
    return {
        "inputs": json_tree.shown(asked["inputs"]) if asked else None,
        "config": json_tree.shown(asked["config"]) if asked and asked["config"] != b"{}" else None,
        "said": transcript.transcript(events),
        "position": position,
        "curl_start": body and curl(f"{root}/api/v1/executions", body, with_key=with_key),
        "curl_read": curl(root + serializers.status_url(execution.id), None, with_key=with_key),
    }


def _last_events(execution: Execution, types: frozenset[str]) -> tuple[tuple[Event, ...], int]:
    """The last events of some types, and the number that they were read up to."""
    after = max(execution.version - LOG_EVENTS, 0)
    log = streams.logs().page(execution.id, tenant(), after, LOG_EVENTS, types)
    return log.events, log.version if log.next is None else log.next


def _tries(execution: Execution) -> dict[str, tuple[waterfall.Try, ...]]:
    """The tries of steps, which are read only if one was tried again."""
    if all(step.attempt <= 1 for step in execution.steps):
        return {}
    return waterfall.tries_of(_last_events(execution, waterfall.TRY_TYPES)[0])


def _after(execution: Execution) -> dict[str, frozenset[str]]:
    """Which steps a step waits for; empty if the pipeline is another one than the one that ran."""
    target = _target(execution)
    if not isinstance(target, Pipeline) or target.definition_hash != execution.definition_hash:
        return {}
    return {step.id: step.depends_on for step in target.steps}


def _target(execution: Execution) -> Target | None:
    catalog = service().catalog
    if execution.type is TargetType.PIPELINE:
        return catalog.pipelines.get(execution.target_id)
    return catalog.agents.get(execution.target_id)


def _block(item: Any, id: str) -> bytes:
    """One item of the stream: `answer` and `line` are added to the page, all else refreshes it."""
    if isinstance(item, Event):
        name = _ADDED.get(item.type, "changed")
        return event_stream.block(
            json.dumps(serializers.event(item, id)).encode(), name, item.number
        )
    if isinstance(item, Snapshot):
        return event_stream.block(b"{}", "changed", item.after)
    if isinstance(item, Gap):
        return event_stream.block(b"{}", "changed")
    return streams.other_block(item)


def _to(id: str) -> Response:
    return cast(Response, redirect(execution_url(id), 303, Response=Answer))
