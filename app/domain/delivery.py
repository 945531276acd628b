"""Defines one try of a webhook delivery: a request to the receiver, and how it ended.

The worker's sender makes it, the store keeps it, and `GET /executions/{id}/deliveries` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

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
