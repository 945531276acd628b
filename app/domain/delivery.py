"""Defines a webhook delivery, and a try of it: one request to the receiver, and how it ended.

The worker's sender makes tries, the store keeps them, and `GET /executions/{id}/deliveries` shows
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.execution import Callback

MAX_ANSWER_BYTES = 1024
"""How much of a receiver's answer is read and kept."""


@dataclass(frozen=True, slots=True)
class Try:
    """One request of a delivery.

    `code` is the status that the receiver answered, None if it did not answer. `error` is one
    sentence that says why the try failed; None if the receiver accepted the event, with any 2xx.
    `answer` is the beginning of the answer's body. `retry_after_seconds` is what the receiver asked
    for in `Retry-After`, with no upper bound.
    """

    at: datetime
    code: int | None
    error: str | None
    seconds: float
    answer: str = ""
    retry_after_seconds: float | None = None

    @property
    def accepted(self) -> bool:
        return self.error is None

    @property
    def gone(self) -> bool:
        """Whether the receiver wants nothing more: it answered 410."""
        return self.code == 410


class DeliveryStatus(StrEnum):
    """`pending` (in the queue), `sending`, `waiting` (for its next try), or one of the final ones.

    `stopped`: it was not sent, because the receiver had answered 410 to another delivery of the
    same execution.
    """

    PENDING = "pending"
    SENDING = "sending"
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event of an execution, to be sent to its callback. `id` is the `webhook-id` of all tries.

    `event` is the event's type without `execution.`, `event_number` its number in the log.
    `tries_made` counts all tries; `tries` holds the last ones. `error` is a sentence if the
    delivery ended without a try that says why.
    """

    id: str
    number: int
    event: str
    event_number: int
    status: DeliveryStatus
    created_at: datetime
    next_try_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    tries_made: int = 0
    tries: tuple[Try, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Some deliveries of an execution, in the order of their events; `total` counts all of them.

    `callback` is where they go; None if the start named none.
    """

    deliveries: tuple[Delivery, ...]
    total: int
    callback: Callback | None = None
