"""One attempt at an execution, as its worker keeps it while it runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from app.tracing import Span, trace_id

if TYPE_CHECKING:
    from app.work.child_handle import ChildHandle


class Stopping(Enum):
    """Why an attempt was asked to end before its flow was done."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LOST = "lost"


@dataclass(slots=True)
class Attempt:
    """`token` is the fencing token: what is written without it, or with an older one, is refused."""

    id: str
    token: str
    number: int
    retried: int
    timeout_seconds: float
    retry_max: int
    retry_backoff_seconds: list[float]
    tenant: str
    request_id: str | None
    data: bytes
    traceparent: str | None = None
    span: Span | None = None
    child: ChildHandle | None = None
    stopping: Stopping | None = None
    progress: str = ""
    """The last reported, as JSON; `""` once it is stored."""
    concluded: bool = False
    """How it ended is known, and on its way to the store."""
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @classmethod
    def from_claim(cls, row: list[bytes]) -> Attempt:
        """From a row of `claim.lua`'s answer. Raises `ValueError` where the record makes no sense."""
        id, token, number, retried, timeout, retries, tenant, request_id = (value.decode() for value in row[:8])
        retry_max, *backoff_seconds = json.loads(retries or "[0]")
        return cls(
            id=id,
            token=token,
            number=int(number),
            retried=int(retried),
            timeout_seconds=float(timeout),
            retry_max=int(retry_max),
            retry_backoff_seconds=[float(seconds) for seconds in backoff_seconds],
            tenant=tenant,
            request_id=request_id or None,
            data=row[8],
            traceparent=row[9].decode() or None,
        )

    def start_message(self) -> dict[str, Any]:
        return {
            "kind": "start",
            "id": self.id,
            "attempt": self.number,
            "names": self.names(),
            "traceparent": self.traceparent,
        }

    def conclude(self) -> None:
        """From now on how it ended is known; no timer may change that."""
        self.concluded = True
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()

    def names(self) -> dict[str, Any]:
        """What every log line about it has."""
        names = {"execution_id": self.id, "attempt": self.number, "tenant": self.tenant, "request_id": self.request_id}
        return {**names, "trace_id": trace_id(self.traceparent)} if self.traceparent else names


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: the script that writes it (`finish` or `release`) and its arguments."""

    attempt: Attempt
    script: str
    arguments: tuple[Any, ...]
