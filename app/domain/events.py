"""Defines an event of an execution's log, and the types of events.

`app.store.events` reads them, `app.services.serializers` writes them for people. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.domain.execution import ENDED

FINAL_TYPES = frozenset(status.value for status in ENDED)
"""The last event of a log."""

STATUS_TYPES = FINAL_TYPES | {"created", "started", "retrying", "cancelling"}
"""The events that are also in the feed of a tenant."""

STEP_TYPES = frozenset({"step.started", "step.completed", "step.failed", "step.skipped"})

TYPES = STATUS_TYPES | STEP_TYPES | {"progress", "output.delta", "log"}
"""All types. People see them with `execution.` before: `execution.step.started`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log. `number` counts from 1, without a gap.

    What `data` holds depends on the type: see docs/events.md. Its values are those of the domain:
    `progress` has a `Progress`, `failed` a `Failure`, `retrying` a time.
    """

    number: int
    type: str
    at: datetime
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        return self.type in FINAL_TYPES


@dataclass(frozen=True, slots=True)
class EventPage:
    """A part of a log, read at one instant.

    `first` is the number of the first event that is still stored, `version` that of the latest one.
    After the last of `events` there may be more: up to `version`.
    """

    events: tuple[Event, ...]
    first: int
    version: int
    ended: bool
