"""What the list of executions shows, computed without a request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.catalog.model import Agent, Catalog, Pipeline
from app.domain.execution import (
    Attempt,
    Execution,
    Failure,
    Page,
    Phase,
    Progress,
    Status,
    TargetType,
)
from app.pages.executions import MAX_WHY, execution_list, row
from app.services.executions import ListQuery

NOW = datetime(2026, 11, 27, 1, 20, tzinfo=UTC)
COUNTS = dict(zip(Status, (1, 2, 30, 4, 5), strict=True))
CATALOG = Catalog(
    {"reader": Agent(id="reader", flows={}, default_flow="")},
    {"a b&c": Pipeline(id="a b&c", steps=(), outputs=(), isolation="thread")},
)


def execution(**fields: Any) -> Execution:
    usual = {
        "id": "exec_0",
        "type": TargetType.AGENT,
        "target_id": "reader",
        "status": Status.RUNNING,
        "phase": None,
        "created_at": NOW - timedelta(seconds=100),
        "started_at": NOW - timedelta(seconds=90),
    }
    return Execution(**{**usual, **fields})


def shown(query: ListQuery, total: int = 120) -> Any:
    found = Page((execution(),), query.page, query.page_size, total)
    return execution_list(query, found, COUNTS, CATALOG, NOW)


def test_the_filter_by_status_counts_and_what_is_at_work_or_broken_comes_first() -> None:
    choices = shown(ListQuery()).statuses
    assert [(choice.name, choice.count) for choice in choices] == [
        ("all", 42), ("running", 2), ("pending", 1), ("failed", 4), ("completed", 30), ("cancelled", 5),
    ]  # fmt: skip
    assert [choice.name for choice in choices if choice.chosen] == ["all"]


def test_a_filter_keeps_the_others_and_goes_to_the_first_page() -> None:
    view = shown(ListQuery(status=Status.FAILED, target_id="reader", page=2))
    by_name = {choice.name: choice.url for choice in view.statuses}
    assert by_name["running"] == "/?status=running&target_id=reader"
    assert by_name["all"] == "/?target_id=reader"
    targets = {choice.name: choice.url for choice in view.targets}
    assert targets["all targets"] == "/?status=failed"
    assert targets["all pipelines"] == "/?status=failed&type=pipeline"
    assert targets["a b&c"] == "/?status=failed&target_id=a+b%26c"
    assert [choice.name for choice in view.targets if choice.chosen] == ["reader"]
    assert view.target == "reader"


@pytest.mark.parametrize(
    ("page", "previous", "following"),
    [
        (1, None, "/?status=failed&page=2"),
        (2, "/?status=failed", "/?status=failed&page=3"),
        (3, "/?status=failed&page=2", None),
        (9, "/?status=failed&page=8", None),
    ],
)
def test_pages_have_links_to_their_neighbours(
    page: int, previous: str | None, following: str | None
) -> None:
    view = shown(ListQuery(status=Status.FAILED, page=page))
    assert (view.previous_url, view.next_url) == (previous, following)
    assert view.first_url == "/?status=failed"
    assert view.first == (page - 1) * 50 + 1


def test_without_a_filter_the_list_is_not_filtered() -> None:
    assert not shown(ListQuery(page=3)).filtered
    assert shown(ListQuery(type=TargetType.AGENT)).filtered


@pytest.mark.parametrize(
    ("fields", "percentage", "done"),
    [
        ({"progress": Progress(1, 4, "reading", 0.5)}, 37.5, "38 %"),
        ({"progress": Progress(1, 4), "type": TargetType.PIPELINE}, 25.0, "1 of 4"),
        ({"progress": None}, 0.0, "0 %"),
        ({"progress": Progress(1, 4), "status": Status.COMPLETED}, None, ""),
        ({"progress": Progress(1, 4), "status": Status.PENDING}, None, ""),
    ],
)
def test_only_a_running_execution_shows_its_progress(
    fields: dict[str, Any], percentage: float | None, done: str
) -> None:
    item = row(execution(**fields), NOW)
    assert (item.percentage, item.done) == (percentage, done)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 90.0),
        ({"ended_at": NOW - timedelta(seconds=60)}, 30.0),
        ({"started_at": None, "status": Status.PENDING}, None),
    ],
)
def test_the_run_time_ends_with_the_execution(
    fields: dict[str, Any], seconds: float | None
) -> None:
    assert row(execution(**fields), NOW).seconds == seconds


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (Phase.CANCELLING, "cancelling"),
        (Phase.RETRY_WAIT, "waiting to retry"),
        (Phase.RUNNING, ""),
        (Phase.QUEUED, ""),
        (None, ""),
    ],
)
def test_a_phase_is_named_where_it_says_more_than_the_status(phase: Phase, words: str) -> None:
    assert row(execution(phase=phase), NOW).phase == words


def test_a_failed_execution_says_why() -> None:
    failed = execution(status=Status.FAILED, failure=Failure("WorkerLost", "It was lost."))
    assert row(failed, NOW).failure == "WorkerLost"


def test_the_run_time_begins_with_the_first_attempt() -> None:
    first, last = NOW - timedelta(seconds=90), NOW - timedelta(seconds=10)
    attempts = (
        Attempt(1, "w", first, first + timedelta(seconds=1), "failed", "ValueError"),
        Attempt(2, "w", last, None, "running", None),
    )
    assert row(execution(started_at=last, attempts=attempts), NOW).seconds == 90
    assert row(execution(started_at=last), NOW).seconds == 10
    waiting = execution(status=Status.PENDING, started_at=None, attempts=attempts[:1])
    assert row(waiting, NOW).seconds == 90


def test_a_row_says_why_it_failed_and_not_more_than_a_line_of_it() -> None:
    failed = execution(status=Status.FAILED, failure=Failure("ValueError", "y" * 10_000))
    item = row(failed, NOW)
    assert item.failure == "ValueError"
    assert item.why == "y" * MAX_WHY
