"""Defines an execution and its parts as immutable values, in the words of the documented API.

All layers use them. Nothing here calls a library, the store or a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class Status(StrEnum):
    """The five documented states. The last three are final: they never change."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in ENDED


# `Status.ended` looks here for every execution of a list, so the set is made once.
ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Phase(StrEnum):
    """A finer state, while the status is `pending` or `running`."""

    QUEUED = "queued"
    RETRY_WAIT = "retry_wait"
    RUNNING = "running"
    CANCELLING = "cancelling"


class TargetType(StrEnum):
    AGENT = "agent"
    PIPELINE = "pipeline"


class StepStatus(StrEnum):
    """The state of one step. It is `skipped` if its `when` was not met."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an execution is: `finished` of `total` steps.

    `step_name` is the running step that started first, None if there is none. `partial` is how much
    of the other steps is done, in steps: 0.5 for a batch with half of its items done.
    """

    finished: int
    total: int
    step_name: str | None = None
    partial: float = 0.0

    @property
    def percentage(self) -> float:
        """From 0.0 to 100.0, with one decimal."""
        return round(100 * (self.finished + self.partial) / self.total, 1)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an execution failed. `type` is an exception's name or one of docs/errors.md."""

    type: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """The use of one model: answered calls, and the tokens that its server reported.

    Tokens are None if the server never reported any. `estimated_tokens` are estimates, from the
    texts, for calls without a report; the other numbers do not include them.
    """

    calls: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    total_tokens: int | None = 0
    estimated_tokens: int = 0


def sum_of_reported(counts: Iterable[int | None]) -> int | None:
    """The sum of the tokens that servers reported; None if none did."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of an execution, as the store has it. An agent's execution has one step, the agent.

    `attempt` counts how often the step was started. `done` is whether the pipeline continues after
    it (an optional step is also done when it failed). `items` has an outcome for each ended item of
    a batch: its failure, or None. `warnings` are sentences about what was ignored.
    """

    id: str
    position: int
    status: StepStatus
    output_key: str
    agent: str | None = None
    flow: str | None = None
    done: bool = False
    attempt: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    usage: Mapping[str, ModelUsage] = field(default_factory=dict)
    failure: Failure | None = None
    items: Mapping[int, Failure | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retries:
    """`config.retries`: how often a failed flow is started again, and the wait before each try."""

    max: int = 0
    backoff_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The idempotency key of a start, and a digest of the request that came with it."""

    key: str
    digest: str


CALLBACK_EVENTS = ("started", "retrying", "cancelling", "completed", "failed", "cancelled")
"""The types of events that a callback can be sent, as they are stored: without `execution.`."""


@dataclass(frozen=True, slots=True)
class Callback:
    """Where webhooks of an execution go, and the types of events that are sent there."""

    url: str
    events: tuple[str, ...] = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class NewExecution:
    """A checked request to start an execution, on its way to the store.

    `config` is what the runtime reads (`flow_id`, `max_workers`, `model_override`, ...), as it was
    sent. What the service itself acts on has fields of its own. `flow` is the agent's name for its
    flow, `definition_hash` a hash of the target's files. `retry_of` is the execution that this one
    repeats; with `take_over` it continues from that one's finished steps.
    """

    id: str
    tenant: str
    type: TargetType
    target_id: str
    inputs: dict[str, Any]
    config: dict[str, Any]
    queue: str
    total_steps: int
    timeout_seconds: float
    max_attempts: int
    retries: Retries = Retries()
    expires_in_seconds: float | None = None
    request_id: str | None = None
    traceparent: str | None = None
    flow: str | None = None
    definition_hash: str = ""
    retry_of: str | None = None
    take_over: bool = False
    callback: Callback | None = None
    tags: tuple[str, ...] = ()
    idempotency: Idempotency | None = None
    body_bytes: int = 0  # roughly; decides whether it is serialized in another thread


@dataclass(frozen=True, slots=True)
class Started:
    """The receipt for an accepted start or retry.

    `replayed`: it is the receipt of an earlier start with the same idempotency key. `unfinished` is
    how many pending and running executions the tenant has now, None if that is not limited.
    """

    execution_id: str
    type: TargetType
    created_at: datetime
    retry_of: str | None = None
    replayed: bool = False
    unfinished: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to run an execution, by one worker.

    `outcome` is `running`, a final status (`failed` also if another attempt followed), or `lost` if
    its process was lost. `error` is the type of the failure.
    """

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = "running"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """What a pending execution waits for.

    `reason` is `backoff` (`until` its time), `worker` (none is alive, or none can start a process),
    `slot` (all are in use), or `turn` (a worker takes it in a moment). `detail` is a sentence.
    `before` is how many executions are before it in its queue, None if that is not known.
    """

    reason: str
    detail: str
    until: datetime | None = None
    before: int | None = None


class Include(StrEnum):
    """What to read besides the status. A pipeline that ended early is always read completely."""

    STATUS = "status"
    STEPS = "steps"
    OUTPUTS = "outputs"


class LargeText(Protocol):
    """A text that is too large to be held in one piece; see `app.store.large_texts`."""

    size: int

    def pieces(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Glance:
    """The little of an execution that says whether a caller has to read it."""

    version: int
    ended: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution as the store has it at one instant. Times are aware and in UTC.

    `outputs` is the JSON text of a completed execution, as the runtime wrote it. It is passed on
    unparsed, and so are `step_outputs`, the outputs of finished steps by output key. `Include`
    decides whether `steps` and `step_outputs` are read. `waiting_for` is read for the status of a
    pending one only. `version` is the number of its latest event, so it grows with every change.
    """

    id: str
    type: TargetType
    target_id: str
    status: Status
    phase: Phase | None
    created_at: datetime
    version: int = 1
    attempt: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    last_heartbeat_at: datetime | None = None
    """Only while it runs: when its worker last extended its lease."""
    progress: Progress | None = None
    outputs: bytes | LargeText | None = None
    failure: Failure | None = None
    attempts: tuple[Attempt, ...] = ()
    traceparent: str | None = None
    flow: str | None = None
    definition_hash: str = ""
    retry_of: str | None = None
    usage: Mapping[str, ModelUsage] = field(default_factory=dict)
    steps: tuple[StepRecord, ...] = ()
    step_outputs: Mapping[str, bytes] = field(default_factory=dict)
    waiting_for: WaitingFor | None = None
    callback: Callback | None = None
    tags: tuple[str, ...] = ()

    @property
    def first_started_at(self) -> datetime | None:
        """When its first attempt began, if its attempts are read; `started_at` is the last one."""
        return self.attempts[0].started_at if self.attempts else self.started_at

    def run_seconds(self, now: datetime) -> float | None:
        """The time from its first start to its end, or until now; None if it has not started. The
        pauses between attempts count.
        """
        began = self.first_started_at
        return ((self.ended_at or now) - began).total_seconds() if began else None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list and the exact total, both at the same instant."""

    executions: tuple[Execution, ...]
    page: int
    page_size: int
    total_items: int

    @property
    def total_pages(self) -> int:
        return -(-self.total_items // self.page_size)  # rounded up
