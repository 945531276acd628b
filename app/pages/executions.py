"""The first page: the list of executions, newest first, with filters, counts and pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from flask import request

from app.api.access import needs, tenant
from app.api.application import Answer
from app.api.parsing import Query
from app.api.schemas import ListQuerySchema
from app.api.views import service
from app.catalog.model import Catalog
from app.domain.execution import Execution, Page, Progress, Status, TargetType
from app.domain.key import Scope
from app.pages import words
from app.pages.blueprint import pages
from app.pages.first import proposal
from app.pages.kept import Kept
from app.pages.rendering import answer, page, render
from app.pages.starting import execution_url
from app.services.executions import ListQuery

PAGE_SIZE = 50
MAX_WHY = 300
"""How much of a failure's message is in the list, which shows a line of it."""

_query = Query(ListQuerySchema(only=("status", "type", "target_id", "page")))

# What is at work or broken comes first.
_ORDER = (Status.RUNNING, Status.PENDING, Status.FAILED, Status.COMPLETED, Status.CANCELLED)

_refreshed = Kept()


@dataclass(frozen=True, slots=True)
class Row:
    """One execution in the list.

    `percentage` is None if there is no progress to show, and `done` says the same in words.
    `seconds` is the time since its first start, or from there to its end; None if it has not
    started. `why` is the message of the failure.
    """

    id: str
    url: str
    type: TargetType
    target_id: str
    status: Status
    phase: str
    percentage: float | None
    done: str
    failure: str
    why: str
    created_at: datetime
    seconds: float | None
    attempt: int


@dataclass(frozen=True, slots=True)
class Choice:
    """A link that sets a filter. `count` is None if it is not counted."""

    name: str
    url: str
    chosen: bool
    count: int | None = None


@dataclass(frozen=True, slots=True)
class ExecutionList:
    """What the page shows. `is_moving`: one of the rows runs, so its progress changes."""

    rows: tuple[Row, ...]
    is_moving: bool
    total: int
    first: int
    statuses: tuple[Choice, ...]
    targets: tuple[Choice, ...]
    target: str
    url: str
    first_url: str
    previous_url: str | None
    next_url: str | None
    filtered: bool


@pages.get("/")
@needs(Scope.READ)
def list_executions() -> Answer:
    query = _asked(_query(request))
    if "HX-Request" not in request.headers:
        return page("executions.html", **_values(query))
    # Nothing is shared of a list without rows: it has a form, which is for its own session alone.
    shared = _refreshed.get(query, lambda: _shared(query))
    return answer(shared) if shared else page("executions_live.html", **_values(query))


def _shared(query: ListQuery) -> str:
    """The list for all who see the same one; empty if it has no rows."""
    values = _values(query)
    return render("executions_live.html", **values) if values["list"].rows else ""


def _values(query: ListQuery) -> dict[str, Any]:
    """What the templates show."""
    now = datetime.now(UTC)
    found, counts = service().list(query), service().counts(query)
    first = None if found.total_items else proposal(service().catalog)
    shown = execution_list(query, found, counts, service().catalog, now)
    return {"list": shown, "proposal": first, "now": now}


def execution_list(
    query: ListQuery, found: Page, counts: Mapping[Status, int], catalog: Catalog, now: datetime
) -> ExecutionList:
    """Computes what the page shows of what was found."""
    first_page = replace(query, page=1)
    return ExecutionList(
        rows=tuple(row(execution, now) for execution in found.executions),
        is_moving=any(execution.status is Status.RUNNING for execution in found.executions),
        total=found.total_items,
        first=(found.page - 1) * found.page_size + 1,
        statuses=_status_choices(first_page, counts),
        targets=_target_choices(first_page, catalog),
        target=query.target_id or (f"all {query.type}s" if query.type else "all targets"),
        url=_url(query),
        first_url=_url(first_page),
        previous_url=_url(replace(query, page=query.page - 1)) if query.page > 1 else None,
        next_url=_url(replace(query, page=query.page + 1))
        if query.page < found.total_pages
        else None,
        filtered=_url(first_page) != "/",
    )


def row(execution: Execution, now: datetime) -> Row:
    failure = execution.failure
    percentage, done = _progress(execution)
    return Row(
        id=execution.id,
        url=execution_url(execution.id),
        type=execution.type,
        target_id=execution.target_id,
        status=execution.status,
        phase=words.phase(execution.phase),
        percentage=percentage,
        done=done,
        failure=failure.type if failure else "",
        why=failure.message[:MAX_WHY] if failure else "",
        created_at=execution.created_at,
        seconds=execution.run_seconds(now),
        attempt=execution.attempt,
    )


def _progress(execution: Execution) -> tuple[float | None, str]:
    """How far a running one is: in percent, and as `2 of 4` steps if it has several."""
    if execution.status is not Status.RUNNING:
        return None, ""
    progress = execution.progress or Progress(0, 1)
    if execution.type is TargetType.PIPELINE:
        return progress.percentage, f"{progress.finished} of {progress.total}"
    return progress.percentage, f"{progress.percentage:.0f} %"


def _asked(query: dict[str, Any]) -> ListQuery:
    return ListQuery(
        status=Status(query["status"]) if "status" in query else None,
        type=TargetType(query["type"]) if "type" in query else None,
        target_id=query.get("target_id"),
        page=query["page"],
        page_size=PAGE_SIZE,
        tenant=tenant(),
        with_attempts=True,
    )


def _status_choices(query: ListQuery, counts: Mapping[Status, int]) -> tuple[Choice, ...]:
    every = Choice(
        "all", _url(replace(query, status=None)), query.status is None, sum(counts.values())
    )
    return (
        every,
        *(
            Choice(
                status, _url(replace(query, status=status)), query.status is status, counts[status]
            )
            for status in _ORDER
        ),
    )


def _target_choices(query: ListQuery, catalog: Catalog) -> tuple[Choice, ...]:
    def choice(name: str, type: TargetType | None = None, target_id: str | None = None) -> Choice:
        chosen = (query.type, query.target_id) == (type, target_id)
        return Choice(name, _url(replace(query, type=type, target_id=target_id)), chosen)

    kinds = (choice(f"all {type}s", type) for type in TargetType)
    ids = (choice(target.id, target_id=target.id) for target in catalog)
    return (choice("all targets"), *kinds, *ids)


def _url(query: ListQuery) -> str:
    """The address of this list: the same filters give the same address."""
    asked = {"status": query.status, "type": query.type, "target_id": query.target_id}
    parameters = {name: value for name, value in asked.items() if value}
    if query.page > 1:
        parameters["page"] = str(query.page)
    return "/" + (f"?{urlencode(parameters)}" if parameters else "")
