"""Decides what to write when an attempt is over: `decide`, a pure function that `attempt` calls.

The values that it works on are here too: why an attempt was stopped, how its run ended, and what is
written.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from app.domain.payload import read_call
from app.worker.claim import MAX_SECONDS, Claim

DEFAULT_BACKOFF_SECONDS = (1.0, 5.0, 30.0)
"""Documented in the contract, for executions whose `config` names no pauses."""

JITTER_SHARE = 0.2
"""The most that is taken off a pause: runs that failed together should not be retried together."""


class Stopping(Enum):
    """Why an attempt has to end before its flow does."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    completed   with `outputs` (packed JSON)
    failed      with `error`; `retryable` and `retry_after_seconds` say if and when it is retried
    stopped     it ended on request, or was abandoned
    died        its process is dead: `reason`
    unstarted   nothing of it ran: `reason`
    unsaved     its outputs could not be stored, or its stored steps could not be read: `reason`
    hung        it hung its process, which was killed: `reason`

    If other runs were in the same process:

    displaced   another run hung the process
    set_apart   one of a few runs hung it, perhaps this one
    suspected   the process died because of one of a few runs: `reason`
    disturbed   it died or hung because of one of many runs: `reason`
    """

    kind: Literal[
        "completed", "failed", "stopped", "died", "unstarted", "unsaved", "hung",
        "displaced", "set_apart", "suspected", "disturbed",
    ]  # fmt: skip
    outputs: bytes = b""
    error: Mapping[str, Any] = field(default_factory=dict)
    retryable: bool = False
    retry_after_seconds: float | None = None
    reason: str = ""

    @classmethod
    def from_message(cls, head: Mapping[str, Any], outputs: bytes) -> Outcome:
        """Reads a child's `ended` message. Raises `KeyError`, `TypeError` or `ValueError` if it
        makes no sense.
        """
        if head["outcome"] == "failed":
            wish = head.get("retry_after_seconds")
            error = {"type": str(head["error"]["type"]), **head["error"]}
            return cls(
                "failed", error=error, retryable=bool(head["retryable"]), retry_after_seconds=wish
            )
        if head["outcome"] not in ("completed", "stopped"):
            raise ValueError(f"There is no outcome {head['outcome']!r}.")
        return cls(head["outcome"], outputs=outputs)


@dataclass(frozen=True, slots=True)
class Finish:
    """Ends the execution for good. `error` is JSON, or `""`."""

    status: str
    outputs: bytes = b""
    error: str = ""

    script = "finish"

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.status, self.outputs, self.error


@dataclass(frozen=True, slots=True)
class Release:
    """Gives the execution back to the queue. `how` and `reason`: see `release.lua`."""

    how: str
    delay_seconds: float = 0.0
    reason: str = ""

    script = "release"

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.how, int(self.delay_seconds * 1_000_000), self.reason


Ending = Finish | Release

_BY_OTHERS = ("displaced", "set_apart", "suspected", "disturbed")


def decide(
    claim: Claim, stopping: Stopping | None, outcome: Outcome, jitter: float
) -> Ending | None:
    """Returns what to write; None if the lease belongs to another worker.

    A reason to stop outranks the outcome: a flow that completes after a cancel is cancelled.
    `jitter`, from 0 to 1, shortens a retry's pause by up to `JITTER_SHARE`.
    """
    if stopping is Stopping.LOST:
        return None
    # If other runs hung or killed the process, they also took this one's time: it is no timeout.
    if stopping is Stopping.TIMEOUT and outcome.kind not in _BY_OTHERS:
        message = f"The run took longer than its timeout of {claim.timeout_seconds:g} s."
        return failure(claim, "Timeout", message)
    if stopping is Stopping.CANCEL:
        return Finish("cancelled")
    if outcome.kind == "completed":
        return Finish("completed", outcome.outputs)
    if outcome.kind == "failed":
        return _retry_or_fail(claim, outcome, jitter)
    if outcome.kind == "unsaved":
        return failure(claim, "InvalidOutput", outcome.reason)
    if outcome.kind == "hung":
        return failure(claim, "Unresponsive", outcome.reason)
    if outcome.kind == "unstarted":
        return Release("handed_back", outcome.retry_after_seconds or 0.0, reason="unstarted")
    if stopping is Stopping.SHUTDOWN or outcome.kind == "displaced":
        return Release("handed_back")
    if outcome.kind in _BY_OTHERS:
        return Release(outcome.kind, reason=outcome.reason)
    if outcome.kind == "died":
        return Release("lost", reason=outcome.reason)
    return failure(claim, "FlowError", "The flow stopped without a request to stop.")


def _retry_or_fail(claim: Claim, outcome: Outcome, jitter: float) -> Ending:
    if outcome.retryable and claim.retried < claim.retry_max:
        return Release(
            "failed",
            _pause_seconds(claim, outcome.retry_after_seconds, jitter),
            outcome.error["type"],
        )
    return Finish("failed", error=json.dumps(dict(outcome.error)))


def _pause_seconds(claim: Claim, wish_seconds: float | None, jitter: float) -> float:
    """The pause before a retry: what the model provider asks for, or else the configured one. The
    last configured pause counts for all further retries.
    """
    # NaN fails this comparison, as it should: no timer can take it.
    if wish_seconds is not None and 0 <= wish_seconds <= MAX_SECONDS:
        return float(wish_seconds)
    pauses = claim.retry_backoff_seconds or DEFAULT_BACKOFF_SECONDS
    return pauses[min(claim.retried, len(pauses) - 1)] * (1 - JITTER_SHARE * jitter)


def failure(claim: Claim, type: str, message: str) -> Finish:
    """Returns the end of an execution that the service itself declares failed."""
    details: dict[str, Any] = {}
    # If the stored request makes no sense, there is no target to name.
    with contextlib.suppress(Exception):
        call = read_call(claim.data)
        details = {f"{call['type']}_id": call["target_id"]}
    return Finish(
        "failed", error=json.dumps({"type": type, "message": message, "details": details})
    )
