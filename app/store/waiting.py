"""Says what a pending execution waits for, from what `waiting.lua` has read.

`ExecutionReader` calls it for the status of a pending execution.
"""

from __future__ import annotations

from typing import Any

from app.domain.execution import WaitingFor
from app.store.steps import to_datetime

_SLOTS = {
    "processes": "a free process slot",
    "threads": "a free thread slot",
}


def waiting_for(found: list[Any]) -> WaitingFor:
    """The first reason that applies: its time, a worker, a slot, its turn."""
    queue, due, before, running, slots, workers = found
    name = queue.decode(errors="replace")
    if due:
        until = to_datetime(int(due))
        text = until.isoformat(timespec="seconds").replace("+00:00", "Z")
        return WaitingFor("backoff", f"Its next attempt may start at {text}.", until)
    if not workers:
        return WaitingFor("worker", f"No worker is alive that takes from the queue {name!r}.")
    if not slots:
        return WaitingFor("worker", f"No worker of the queue {name!r} can start a process now.")
    if running >= slots:
        slot = _SLOTS.get(name, "a free slot")
        detail = f"It waits for {slot}: {slots} of {slots} are in use{_before(before)}."
        return WaitingFor("slot", detail, before=_count(before))
    detail = f"A worker will take it in a moment{_before(before)}."
    return WaitingFor("turn", detail, before=_count(before))


def _count(before: int) -> int | None:
    return before if before >= 0 else None


def _before(before: int) -> str:
    """The end of a sentence; nothing for the first one, and for one whose place is not known."""
    if before <= 0:
        return ""
    return f", and {before} {'is' if before == 1 else 'are'} before it in the queue"
