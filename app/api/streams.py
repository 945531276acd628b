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

from app.api import accept, access, event_stream, examples
from app.api.access import needs, tenant
from app.api.application import Answer, Application
from app.api.blueprint import ApiBlueprint, Success
from app.api.executions import checked_id
from app.api.parsing import Headers, Query
from app.api.schemas import (
    LAST_EVENT_ID,
    EventsQuerySchema,
    FeedQuerySchema,
    LogSchema,
    ResumeHeadersSchema,
)
from app.domain.events import Event
from app.domain.key import Scope
from app.services import feed, serializers, streams
from app.services.feed import FeedService, Filter
from app.services.streams import Client, Crowded, Gap, LogService, LogStream, Pause, Position, Slots, Snapshot
from app.store.feed import FeedEntry, Feeds
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

    def batches(self, client: Client, is_allowed: Callable[[], bool]) -> Iterator[list[Any]]: ...


class Nobody:
    """The client of a server that does not tell anything about it, such as Flask's own."""

    stopping = False

    def gone(self) -> bool:
        return False

    def wake_at_end(self, wake: Callable[[], None]) -> None:
        """Does nothing."""

    def begin_stream(self) -> None:
        """Does nothing."""


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
        page = _logs().page(id, tenant(), after or 0, query["limit"], types)
        body = json.dumps(serializers.log_page(page, id))
        return _varying(Answer(body, content_type=_JSON))
    if _NUMBER.fullmatch(headers.get(LAST_EVENT_ID, "")):
        after = int(headers[LAST_EVENT_ID])
    stream = _logs().follow(id, tenant(), after, types)
    if stream.is_over and not stream.first:
        return _varying(Answer(status=204))
    return _stream(stream, lambda item: _log_block(item, id))


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
    return _stream(_feeds().follow(tenant(), after, chosen), _feed_block)


def register(app: Application, max_streams: int, logs: LogService, feeds: Any) -> None: ...
