"""What an execution is: values and the words of the documented API. No library, no store, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class Status(StrEnum):
    """The five documented states. A final state never changes."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Phase(StrEnum):
    """The finer truth beside `pending` and `running`."""

    QUEUED = "queued"
    RETRY_WAIT = "retry_wait"
    RUNNING = "running"
    CANCELLING = "cancelling"


class TargetType(StrEnum):
    AGENT = "agent"
    PIPELINE = "pipeline"


class StepStatus(StrEnum):
    """What became of one step. A step that was not wanted (`when`) is `skipped`."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `finished` of `total` steps; `step_name` is the running step that started
    first.
    """

    finished: int
    total: int
    step_name: str | None = None

    @property
    def percentage(self) -> float:
        """0.0 to 100.0, one decimal."""
        return round(100 * self.finished / self.total, 1)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an execution failed. `type` is an exception's name or one of the service's own words."""

    type: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model was used for: answered calls, and the tokens that its server reported.

    Tokens are None where none were ever reported. `estimated_tokens` are those of calls without a
    report, estimated from their texts; they are not among the others.
    """

    calls: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    total_tokens: int | None = 0
    estimated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of an execution, as the store has it. An agent's execution has one step, the agent.

    `attempt` counts how often the step was started, `done` is whether the pipeline goes on from it
    (a step that may fail is done when it failed), `items` has an outcome for each item of a batch
    that ended. `warnings` are sentences about what was passed over.
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
    """`config.retries`: how often a flow that failed is started again, and how long to wait before
    each.
    """

    max: int = 0
    backoff_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What makes a start one that may be repeated: the caller's key, and a digest of what was asked
    with it.
    """

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class NewExecution:
    """An accepted request to start, on its way to the store.

    `config` is what the runtime reads (`flow_id`, `max_workers`, `model_override`, ...), as it was
    sent; what the service itself acts on stands beside it. `flow` is an agent's, by its own name;
    `definition` is the version of the target's files. `retry_of` is the execution that this one
    repeats, and whose finished steps it has where `take_over` says so.
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
    definition: str = ""
    retry_of: str | None = None
    take_over: bool = False
    idempotency: Idempotency | None = None
    body_bytes: int = 0  # about how much was sent


@dataclass(frozen=True, slots=True)
class Started:
    """The receipt for an accepted start or retry; `replayed`: for an earlier one with the same
    idempotency key.

    `unfinished` is how many executions the tenant has now, where their number is limited.
    """

    execution_id: str
    type: TargetType
    created_at: datetime
    retry_of: str | None = None
    replayed: bool = False
    unfinished: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of an execution by one worker.

    `outcome` is `running`, a final status, `failed` also where it was tried again, or `lost` where
    its process was; `error` is the type of what it failed with.
    """

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = "running"
    error: str | None = None


class Include(StrEnum):
    """What is read of an execution beside its status. Of a pipeline that broke off, everything
    always is.
    """

    STATUS = "status"
    STEPS = "steps"
    OUTPUTS = "outputs"


class LargeText(Protocol):
    """A text that is not held in one piece."""

    size: int

    def pieces(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution as the store has it at one instant. Times are aware and in UTC.

    `outputs` is the JSON text of a completed run, as the runtime wrote it; it is passed on
    unparsed, and so is what finished steps have put out, by output key. Which of `steps` and
    `step_outputs` are there is said by `Include`.
    """

    id: str
    type: TargetType
    target_id: str
    status: Status
    phase: Phase | None
    created_at: datetime
    attempt: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: Progress | None = None
    outputs: bytes | LargeText | None = None
    failure: Failure | None = None
    attempts: tuple[Attempt, ...] = ()
    traceparent: str | None = None
    flow: str | None = None
    definition: str = ""
    retry_of: str | None = None
    usage: Mapping[str, ModelUsage] = field(default_factory=dict)
    steps: tuple[StepRecord, ...] = ()
    step_outputs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list with exact totals, both from the same instant."""

    executions: tuple[Execution, ...]
    page: int
    page_size: int
    total_items: int

    @property
    def total_pages(self) -> int:
        return -(-self.total_items // self.page_size)
