"""The endpoints that send events as they come: of one execution, and of all of a tenant.

They answer with Server-Sent Events, which `app.api.event_stream` writes. The log of one execution
is also there as JSON, page by page.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

from flask import Response, current_app, request

from app.api import accept, event_stream, examples
from app.api.access import needs, still_allowed, tenant
from app.api.application import Answer, Application
from app.api.blueprint import ApiBlueprint, Success
from app.api.event_schemas import (
    LAST_EVENT_ID,
    EventsQuerySchema,
    FeedQuerySchema,
    LogSchema,
    ResumeHeadersSchema,
)
from app.api.parsing import Headers, Query
from app.api.views import checked_id, json_answer
from app.api.waiting import client
from app.domain.events import Event
from app.domain.key import Scope
from app.services import serializers
from app.services.executions import ExecutionService
from app.services.feed import FeedService, Filter
from app.services.streams import (
    Crowded,
    Gap,
    LogService,
    LogStream,
    Pause,
    Position,
    Slots,
    Snapshot,
)
from app.services.waiting import Caller
from app.store.feed import FeedEntry
from app.store.feed import Position as FeedPosition

blueprint = ApiBlueprint(
    "events",
    __name__,
    url_prefix="/api/v1",
    description="Hear of changes as they happen.",
)

RETRY_SECONDS = (1.0, 3.0)
"""How long a client waits before it connects again. Clients of a process that ended at once come
back one after the other.
"""

CROWDED_RETRY_SECONDS = (10.0, 20.0)
"""The same for clients that this process had no room for."""

_JSON = "application/json"
_STREAM_HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would collect events before it passes them on
}
_NUMBER = re.compile(r"[0-9]{1,15}")


_resume = Headers(ResumeHeadersSchema())


class Batches(Protocol):
    """A stream: what to send, as it comes."""

    def batches(self, caller: Caller, is_allowed: Callable[[], bool]) -> Iterator[list[Any]]: ...


@blueprint.operation(
    "GET",
    "/executions/<execution_id>/events",
    Success(
        200,
        LogSchema,
        examples.LOG,
        description="The events, as they come. As JSON: a page of the log.",
        stream=examples.STREAM,
    ),
    Success(204, description="The log has no more events: the execution has ended."),
    reads=(Query(EventsQuerySchema()), _resume),
    problems=("not_found", "not_acceptable", "too_many_large"),
)
@needs(Scope.READ)
def get_events(query: dict[str, Any], headers: dict[str, str], execution_id: str) -> Response:
    """Follow the events of an execution

    Server-Sent Events: a snapshot of the status, then every event, until the final one. A client
    that connects again with `Last-Event-ID`, as browsers do, gets the events after that one. With
    `Accept: application/json`, the log as it is now.
    """
    id, types, after = checked_id(execution_id), query.get("types"), query.get("after")
    if accept.chosen(request, (event_stream.CONTENT_TYPE, _JSON)) == _JSON:
        page = logs().page(id, tenant(), after or 0, query["limit"], types)
        return _varying(json_answer(json.dumps(serializers.log_page(page, id))))
    if _NUMBER.fullmatch(headers.get(LAST_EVENT_ID, "")):
        after = int(headers[LAST_EVENT_ID])
    return followed(logs().follow(id, tenant(), after, types), lambda item: _log_block(item, id))


@blueprint.operation(
    "GET",
    "/events",
    Success(200, description="The changes, as they come.", stream=examples.FEED),
    reads=(Query(FeedQuerySchema()), _resume),
    problems=("not_acceptable",),
)
@needs(Scope.READ)
def follow_executions(query: dict[str, Any], headers: dict[str, str]) -> Response:
    """Follow the status of all executions

    Server-Sent Events: every change of a status from now on, or from `Last-Event-ID` on.
    """
    accept.chosen(request, (event_stream.CONTENT_TYPE,))
    after = FeedPosition.parse(headers.get(LAST_EVENT_ID, "")) or query.get("after")
    chosen = Filter(query.get("type"), query.get("target_id"), query.get("tag"))
    return streamed(feeds().follow(tenant(), after, chosen), _feed_block)


def register(app: Application, executions: ExecutionService) -> None:
    """Prepares what follows logs and feeds in this process, which count together."""
    slots = Slots(executions.settings.most_streams)
    app.extensions["logs"] = LogService(executions, slots)
    app.extensions["feeds"] = FeedService(executions.store.feeds, slots)


def logs() -> LogService:
    return cast(LogService, current_app.extensions["logs"])


def feeds() -> FeedService:
    return cast(FeedService, current_app.extensions["feeds"])


def followed(stream: LogStream, block: Callable[[Any], bytes]) -> Response:
    """The same as `streamed`; 204 if the client has all of the log, so that it does not return."""
    if not stream.is_over or stream.first:
        return streamed(stream, block)
    answer = Answer(status=204)
    del answer.headers["Content-Type"]  # Flask's default, but there is no content
    return _varying(answer)


def streamed(stream: Batches, block: Callable[[Any], bytes]) -> Response:
    """An answer with what a stream yields. `block` writes one item of it."""
    caller = client()
    caller.begin_stream()
    body = _pieces(stream.batches(caller, still_allowed()), block)
    answer = Answer(body, headers=_STREAM_HEADERS, content_type=event_stream.CONTENT_TYPE)
    return _varying(answer)


def _pieces(batches: Iterable[list[Any]], block: Callable[[Any], bytes]) -> Iterator[bytes]:
    first = [_retry(RETRY_SECONDS)]  # sent with what comes first, which saves a packet
    for items in batches:
        yield from event_stream.pieces([*first, *map(block, items)])
        first = []


def _varying(answer: Response) -> Response:
    answer.vary.add("Accept")
    return answer


def _log_block(item: Any, execution_id: str) -> bytes:
    if isinstance(item, Event):
        body = serializers.event(item, execution_id)
        return event_stream.block(json.dumps(body).encode(), body["type"], item.number)
    if isinstance(item, Snapshot):
        return event_stream.block(item.body, "snapshot", item.after)
    return other_block(item)


def _feed_block(item: Any) -> bytes:
    if isinstance(item, FeedEntry):
        body = serializers.change(item)
        return event_stream.block(json.dumps(body).encode(), body["type"], str(item.position))
    return other_block(item)


def other_block(item: Gap | Position | Pause | Crowded) -> bytes:
    if isinstance(item, Gap):
        bounds = {"after": item.after, "before": item.before}
        return event_stream.block(json.dumps(bounds).encode(), "stream.gap")
    if isinstance(item, Position):
        return event_stream.position(item.id)
    if isinstance(item, Pause):
        return event_stream.COMMENT
    return _retry(CROWDED_RETRY_SECONDS)


def _retry(seconds: tuple[float, float]) -> bytes:
    return event_stream.retry(random.uniform(*seconds))  # noqa: S311  no secret
