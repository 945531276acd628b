"""Reads the log of an execution: its stored and published entries, and the events that are not
stored because the record itself says them.

`scripts/events.lua` writes them; it describes the form of an entry. The store may hold anything,
because other programs can write to it: an unreadable entry is shown as a `log` event that says so,
so that no number is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from app.domain.events import TYPES, Event, EventPage
from app.domain.execution import Execution, Status
from app.store.job_reader import SUMMARY_FIELDS, read_progress
from app.store.steps import UNREADABLE, as_failure, to_datetime

LOG_FIELDS = (*SUMMARY_FIELDS, "error", "steps")
"""The fields of the record that the log is read from."""

UNREADABLE_ENTRY = "This event in the store is unreadable."

_UNREADABLE_ERRORS = (ValueError, TypeError, KeyError, OverflowError, RecursionError)


def read_entries(entries: bytes, first: int) -> list[Event]:
    """Reads entries as they are published: a JSON array. `first` is the number of the first one.

    Raises `ValueError` if it is no array.
    """
    try:
        found = json.loads(entries)
    except RecursionError as error:
        raise ValueError("The entries are nested too deeply.") from error
    if not isinstance(found, list):
        raise ValueError("The entries are no JSON array.")
    return [_event(number, entry) for number, entry in enumerate(found, first)]


def read_entry(entry: bytes, number: int) -> Event:
    """Reads one stored entry."""
    try:
        return _event(number, json.loads(entry))
    except (ValueError, RecursionError):
        return _unreadable(number)


def page_of(
    execution: Execution,
    after: int,
    count: int,
    found: tuple[int, int, Sequence[bytes]],
    *,
    has_untold_end: bool,
) -> EventPage:
    """Makes the page of what `log.lua` has found: the number of the first stored event (0 if no
    list is stored), the number of the first entry, and entries.
    """
    oldest, first, entries = found
    if oldest:
        events = [read_entry(entry, number) for number, entry in enumerate(entries, first)]
        if has_untold_end and first + len(entries) == execution.version:
            events.append(_end_of(execution))
    else:
        events = events_of(execution)
        oldest = events[0].number if events else execution.version + 1
    events = [event for event in events if event.number > after][:count]
    return EventPage(tuple(events), oldest, execution.version, execution.status.ended)


def events_of(execution: Execution) -> list[Event]:
    """The events that the record itself says, up to its version (`is_in_record` in events.lua).

    If the list of a longer log is lost, that is the end alone.
    """
    version, ended = execution.version, execution.status.ended
    events = []
    if version <= (3 if ended else 2):
        events.append(Event(1, "created", execution.created_at))
        if version > (2 if ended else 1):
            started_at = execution.started_at or execution.created_at
            events.append(Event(2, "started", started_at, {"attempt": execution.attempt}))
    return [*events, _end_of(execution)] if ended else events


def _end_of(execution: Execution) -> Event:
    failure = {"error": execution.failure} if execution.status is Status.FAILED else {}
    ended_at = execution.ended_at or execution.created_at
    return Event(execution.version, execution.status.value, ended_at, failure)


def _event(number: int, entry: Any) -> Event:
    try:
        at, type, data = entry
        if type not in TYPES:
            raise ValueError(type)
        return Event(number, type, to_datetime(at), _data(type, data))
    except _UNREADABLE_ERRORS:
        return _unreadable(number)


def _data(type: str, data: Any) -> dict[str, Any]:
    """The data in the values of the domain. Raises one of `_UNREADABLE_ERRORS`."""
    if type == "progress":
        return {"progress": read_progress(data)}
    if not isinstance(data, dict):
        raise ValueError(data)
    if type == "failed":
        return {"error": as_failure(data["error"]) if "error" in data else UNREADABLE}
    if type == "retrying":
        due_at = None if data["due"] is None else to_datetime(data["due"])
        return {**{name: data[name] for name in ("attempt", "outcome", "error")}, "due_at": due_at}
    return data


def _unreadable(number: int) -> Event:
    return Event(number, "log", to_datetime(0), {"message": UNREADABLE_ENTRY})
