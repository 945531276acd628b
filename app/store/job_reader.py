"""Reads an RQ job's hash as an execution. `records` and `execution_reader` call it.

A record may hold anything, because other programs can write to the store.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from app.domain.execution import (
    CALLBACK_EVENTS,
    Attempt,
    Callback,
    Execution,
    Failure,
    Glance,
    Phase,
    Progress,
    Status,
    TargetType,
)
from app.domain.payload import readable
from app.store.steps import UNREADABLE, read_failure, read_usage, to_datetime

STATUS_OF_RQ = {
    "created": Status.PENDING,
    "queued": Status.PENDING,
    "deferred": Status.PENDING,
    "scheduled": Status.PENDING,
    "rate_limited": Status.PENDING,
    "ready_to_enqueue": Status.PENDING,
    "started": Status.RUNNING,
    "finished": Status.COMPLETED,
    "failed": Status.FAILED,
    "stopped": Status.CANCELLED,
    "canceled": Status.CANCELLED,
}
"""What each of RQ's job states means here. The scripts write six of them."""

SUMMARY_FIELDS = (
    "status",
    "tenant",
    "type",
    "target",
    "meta",
    "created_at",
    "attempt",
    "started_at",
    "ended_at",
    "cancel",
    "retry_of",
    "version",
    "told",
    "tags",
)
"""The fields for an item of a list. The scripts rely on the order of the first three."""

ATTEMPT_FIELDS = (*SUMMARY_FIELDS, "error", "worker_name", "history")
"""The fields for an item of a list with its attempts."""

RECORD_FIELDS = (
    *SUMMARY_FIELDS,
    *("steps", "error", "worker_name", "history", "usage", "flow", "definition", "traceparent"),
    "callback",
)
"""The fields for the status of one execution."""

GLANCE_FIELDS = ("status", "tenant", "version", "told", "created_at", "started_at")
"""The fields that `read_glance` needs."""

# The same as in prelude.lua.
MAX_COUNT = 999_999_999
FOREVER = 2**53 - 1

_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def read_record(execution_id: str, record: dict[str, bytes]) -> Execution:
    """Translates an RQ job's hash into an execution.

    Raises `ValueError`, `KeyError` or `OverflowError` if a field that the scripts check is
    unreadable. Unreadable fields that only people see are left out.
    """
    status, progress = _read_meta(record)
    # Not shown, but the scripts check it: both must agree on which records are unreadable.
    _integer(record.get("steps", b"1"), MAX_COUNT)
    return Execution(
        id=execution_id,
        type=TargetType(_decoded(record["type"])),
        target_id=_decoded(record["target"]),
        status=status,
        phase=_phase(status, record),
        created_at=read_time(record["created_at"]),
        version=_version(record, status),
        attempt=_integer(record.get("attempt", b"0"), MAX_COUNT),
        started_at=read_time(record["started_at"])
        if "started_at" in record or status is Status.RUNNING
        else None,
        ended_at=read_time(record["ended_at"]) if status.ended else None,
        progress=_shown(progress, status, "outputs" in record),
        outputs=_outputs(record["outputs"])
        if "outputs" in record and status is Status.COMPLETED
        else None,
        failure=_failure(record, status),
        attempts=_attempts(record, status)
        if "worker_name" in record or "history" in record
        else (),
        traceparent=_text(record, "traceparent"),
        flow=_text(record, "flow"),
        definition_hash=_text(record, "definition") or "",
        retry_of=_text(record, "retry_of"),
        usage=read_usage(record["usage"]) if "usage" in record else {},
        callback=read_callback(record["callback"]) if "callback" in record else None,
        tags=_tags(record["tags"]) if "tags" in record else (),
    )


def read_glance(record: dict[str, bytes]) -> Glance:
    """The little of an execution that says whether a caller has to read it.

    Raises what `read_record` raises.
    """
    status = STATUS_OF_RQ[_decoded(record["status"])]
    return Glance(_version(record, status), status.ended, read_time(record["created_at"]))


def _read_meta(record: dict[str, bytes]) -> tuple[Status, Progress | None]:
    """The status and the progress. `meta` must agree with RQ's status."""
    status = STATUS_OF_RQ[_decoded(record["status"])]
    try:
        meta = json.loads(record["meta"])
        meta_status, progress = meta["status"], meta["progress"]
    except (TypeError, RecursionError) as error:
        raise ValueError("`meta` is unreadable.") from error
    if meta_status != status:
        raise ValueError(f"`meta` has the status {meta_status!r}, but the job has {status}.")
    return status, read_progress(progress)


def _version(record: dict[str, bytes], status: Status) -> int:
    """The number of the latest event. Older versions of the service told none of their changes:
    then it is at least the number of the events that the record says by itself (`version_of` in
    record.lua).
    """
    version = _integer(record.get("version", b"0"), MAX_COUNT)
    if status is Status.PENDING:
        return max(1, version)
    if has_untold_end(record, status):
        return version + 1
    return max(3 if status.ended and "started_at" in record else 2, version)


def has_untold_end(record: dict[str, bytes], status: Status) -> bool:
    """Whether older code has ended an execution that stores its events: the end is not among them
    (`make_list` in events.lua).
    """
    return status.ended and "told" in record


def _shown(progress: Progress | None, status: Status, has_outputs: bool) -> Progress | None:
    """What is shown of it: a completed execution without its outputs is about to be ended."""
    return None if status is Status.COMPLETED and not has_outputs else progress


def read_progress(progress: Any) -> Progress | None:
    """From `[finished, total, name]` or, if a part of a step is done, `[..., partial]`."""
    if not isinstance(progress, list) or len(progress) not in (3, 4):
        return None
    finished, total, name, partial = [*progress, 0][:4]
    numbers = (
        type(finished) is type(total) is int and 0 <= finished <= total < 1 << 53 and total > 0
    )
    if not numbers or not isinstance(name, str | None):
        return None
    # NaN fails this comparison, as it should.
    is_part = type(partial) in (int, float) and 0 <= partial <= total - finished
    return Progress(finished, total, name, partial if is_part else 0)


def _phase(status: Status, record: dict[str, bytes]) -> Phase | None:
    if status is Status.PENDING:
        return Phase.RETRY_WAIT if record["status"] == b"scheduled" else Phase.QUEUED
    if status is Status.RUNNING:
        return Phase.CANCELLING if "cancel" in record else Phase.RUNNING
    return None


def read_callback(text: bytes) -> Callback | None:
    """Reads `callback` of a record; None if it is unreadable."""
    found = _parsed(text)
    if not isinstance(found, dict) or not isinstance(found.get("url"), str):
        return None
    events = found.get("events")
    known = [event for event in CALLBACK_EVENTS if isinstance(events, list) and event in events]
    return Callback(found["url"], tuple(known)) if known else None


def _tags(text: bytes) -> tuple[str, ...]:
    found = _parsed(text)
    return tuple(tag for tag in found if isinstance(tag, str)) if isinstance(found, list) else ()


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _outputs(packed: bytes) -> bytes | None:
    """The JSON text of an object; None if it is something else, which another program wrote."""
    text = readable(packed)
    return text if text and text[:1] == b"{" and text[-1:] == b"}" else None


def _failure(record: dict[str, bytes], status: Status) -> Failure | None:
    """None unless the execution failed. A failed one always has a failure."""
    if status is not Status.FAILED:
        return None
    return read_failure(record["error"]) if "error" in record else UNREADABLE


def _decoded(value: bytes) -> str:
    return value.decode(errors="replace")


def _text(record: dict[str, bytes], field: str) -> str | None:
    return _decoded(record[field]) if field in record else None


def read_time(text: bytes) -> datetime:
    """A time as RQ writes it. Raises `ValueError`."""
    # `fromisoformat` alone would accept forms that the scripts do not.
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is not a time in RQ's form.")
    return datetime.fromisoformat(text.decode())


def _integer(value: bytes, most: int = FOREVER) -> int:
    """A number, by the same rule as in the scripts (`is_integer` in prelude.lua)."""
    if not value.isdigit() or len(value) > 16 or int(value) > most:
        raise ValueError(f"{value!r} is not an integer from 0 to {most}.")
    return int(value)


def _attempts(record: dict[str, bytes], status: Status) -> tuple[Attempt, ...]:
    """The earlier attempts, from the history, and the current or last one, from the record."""
    attempts = _earlier(record.get("history", b""))
    if "started_at" in record and "worker_name" in record:
        started_at = read_time(record["started_at"])
        error = read_failure(record["error"]).type if "error" in record else None
        ended_at = read_time(record["ended_at"]) if "ended_at" in record else None
        outcome = "lost" if error == "WorkerLost" else status
        number = _integer(record.get("attempt", b"0"), MAX_COUNT)
        attempts.append(
            Attempt(number, _decoded(record["worker_name"]), started_at, ended_at, outcome, error)
        )
    return tuple(attempts)


def _earlier(history: bytes) -> list[Attempt]:
    """The attempts in the history; none if it is unreadable.

    The history is a list of JSON objects, each with a comma behind it: so the scripts can append to
    it without parsing it.
    """
    try:
        past = json.loads(b"[" + history.removesuffix(b",") + b"]")
        attempts = [
            Attempt(
                fields["number"],
                fields["worker"],
                to_datetime(fields["started"]),
                to_datetime(fields["ended"]),
                fields["outcome"],
                fields["error"],
            )
            for fields in past
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []
    sound = all(
        type(attempt.number) is int
        and all(isinstance(text, str) for text in (attempt.worker, attempt.outcome, attempt.error))
        for attempt in attempts
    )
    return attempts if sound else []
