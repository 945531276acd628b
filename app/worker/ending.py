"""Decides what is written of an attempt that is over: a pure function, and the values that it works
on.
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


class Stopping(Enum):
    """Why an attempt was asked to end before its flow was done."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    completed   with `outputs` (packed JSON)
    failed      with `error`; `retryable` and `retry_after_seconds` say whether and when to try again
    stopped     it ended because it was asked to, or was abandoned
    died        its process is gone: `reason`
    unstarted   nothing of it ran: `reason`
    unsaved     what it put out could not be stored, or what it had stored could not be read: `reason`
    hung        it held its process, which is gone now: `reason`

    And where its process is gone with others in it:

    displaced   another one held that process
    set_apart   one of a few did; it may be this one
    suspected   the process died, by one of a few: `reason`
    disturbed   it died, by one of many: `reason`
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
        """From a child's `ended`. Raises `KeyError` or `ValueError` if it makes no sense."""
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
    """`error` is JSON, or `""`."""

    status: str
    outputs: bytes = b""
    error: str = ""

    script = "finish"

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.status, self.outputs, self.error


@dataclass(frozen=True, slots=True)
class Release:
    """`how` and `reason`: see `release.lua`."""

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
    """What to write; None if the lease belongs to somebody else. The reason to stop goes before the
    outcome.

    `jitter`, from 0 to 1, takes up to a fifth off a pause, so that what failed together does not
    come back together.
    """
    if stopping is Stopping.LOST:
        return None
    if stopping is Stopping.TIMEOUT and outcome.kind not in _BY_OTHERS:  # these took its time, too
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
    return failure(claim, "FlowError", "The flow stopped although nobody asked it to.")


def _retry_or_fail(claim: Claim, outcome: Outcome, jitter: float) -> Ending:
    if outcome.retryable and claim.retried < claim.retry_max:
        return Release(
            "failed",
            _pause_seconds(claim, outcome.retry_after_seconds, jitter),
            outcome.error["type"],
        )
    return Finish("failed", error=json.dumps(dict(outcome.error)))


def _pause_seconds(claim: Claim, wish_seconds: float | None, jitter: float) -> float:
    """The model provider's own wish goes first; else the configured pause, the last one for all
    further retries.
    """
    if wish_seconds is not None and 0 <= wish_seconds <= MAX_SECONDS:  # NaN is not
        return float(wish_seconds)
    pauses = claim.retry_backoff_seconds or DEFAULT_BACKOFF_SECONDS
    return pauses[min(claim.retried, len(pauses) - 1)] * (1 - 0.2 * jitter)


def failure(claim: Claim, type: str, message: str) -> Finish:
    """The end of an execution with an error that the service gives."""
    details: dict[str, Any] = {}
    with contextlib.suppress(
        Exception
    ):  # what was asked makes no sense: then there is nothing to name
        call = read_call(claim.data)
        details = {f"{call['type']}_id": call["target_id"]}
    return Finish(
        "failed", error=json.dumps({"type": type, "message": message, "details": details})
    )
