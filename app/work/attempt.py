"""One attempt at an execution, as its worker keeps it while it runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from app.tracing import Span, trace_id
from app.work.protocol import join

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
    """`token` is the fencing token: what is written without it, or with an older one, is refused.

    It names the attempt wherever several of one execution could meet.
    """

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
    used_before: str = ""
    definition: str = ""
    resumes: bool = False
    """Earlier attempts, or the execution that it retries, have stored steps."""
    steps: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)
    child: ChildHandle | None = None
    stopping: Stopping | None = None
    progress: str = ""
    """The last reported, as JSON; `""` once it is stored."""
    usage: str = ""
    """The same for what its model calls have used."""
    used: str = ""
    """The last word on that, stored or not: what is written of an attempt has it as it is by then."""
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
            used_before=row[9].decode(),
            definition=row[10].decode(),
            resumes=row[11] == b"1",
            traceparent=row[12].decode() or None,
        )

    def start_message(self) -> tuple[dict[str, Any], bytes]:
        """What its child is told: a head and, behind the data, what earlier attempts have stored."""
        head = {
            "kind": "start",
            "token": self.token,
            "id": self.id,
            "attempt": self.number,
            "names": self.names(),
            "traceparent": self.traceparent,
        }
        if not self.used_before and not self.resumes:
            return head, self.data
        lengths, body = join([self.data, *self.steps.values(), *self.values.values()])
        known = {"usage": self.used_before, "definition": self.definition}
        return {**head, **known, "steps": list(self.steps), "values": list(self.values), "lengths": lengths}, body

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
class Entry:
    """What is to be written of an attempt: a script, and its arguments after id, token and usage.

    `finish` and `release` end the attempt. A `checkpoint` does not: its child waits for it, by `number`.
    `refusals` is how often the store has refused it so far.
    """

    attempt: Attempt
    script: str
    arguments: tuple[Any, ...]
    number: int = 0
    refusals: int = 0
