"""Sends reports about a running flow to the worker: progress, and a pipeline's checkpoints.

Used inside a child: `child` owns the `ProgressReports`, `child_run` makes a `StepReports` per run.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import asdict

from app.domain.execution import Progress, StepRecord, StepStatus
from app.domain.payload import pack
from app.providers.base import Stopped
from app.runtime.checkpoint import Checkpoint
from app.runtime.live import Place
from app.runtime.stop import StopSignal
from app.runtime.usage import Usage
from app.store.steps import write_outcome, write_record, write_usage
from app.worker.live_reports import RunLive, write_event
from app.worker.protocol import ChildSocket, join

PROGRESS_INTERVAL_SECONDS = 0.2
"""The worker stores progress five times a second, so more messages would be wasted."""


def _write_progress(progress: Progress) -> str:
    """See `app.store.job`. The part is left out if there is none: most runs have no batch."""
    steps = [progress.finished, progress.total, progress.step_name]
    return json.dumps([*steps, round(progress.partial, 6)] if progress.partial else steps)


class ProgressReports:
    """Sends progress at most five times a second for each attempt. A report that comes too soon is
    sent later, unless a newer one replaces it. Safe to use from any thread.
    """

    def __init__(self, worker: ChildSocket):
        self._worker = worker
        self._lock = threading.Lock()
        self._sent_at: dict[str, float] = {}
        self._late: dict[str, Progress] = {}

    def report(self, token: str, progress: Progress) -> None:
        with self._lock:
            if time.monotonic() - self._sent_at.get(token, 0.0) < PROGRESS_INTERVAL_SECONDS:
                self._late[token] = progress
                return
            self._send(token, progress)

    def send_late(self) -> None:
        """Sends the reports that came too soon. Called after each message of the worker, which
        sends one at least once a second.
        """
        with self._lock:
            late, self._late = self._late, {}
            for token, progress in late.items():
                self._send(token, progress)

    def forget(self, token: str) -> None:
        with self._lock:
            self._late.pop(token, None)
            self._sent_at.pop(token, None)

    def _send(self, token: str, progress: Progress) -> None:
        self._late.pop(token, None)
        self._sent_at[token] = time.monotonic()
        with contextlib.suppress(OSError):
            self._worker.send(
                {"kind": "progress", "token": token, "progress": _write_progress(progress)}
            )


class StepReports:
    """Sends the checkpoints of one pipeline's run, in order. `save` is called from one thread."""

    def __init__(
        self,
        worker: ChildSocket,
        token: str,
        definition_hash: str,
        stop: StopSignal,
        usage: Usage,
        live: RunLive,
    ):
        self._worker = worker
        self._token = token
        self._definition_hash = definition_hash
        self._stop = stop
        self._usage = usage
        self._live = live
        self._number = 0
        self._stored = 0
        self._news = threading.Event()
        stop.subscribe(self._news.set)

    def save(self, checkpoint: Checkpoint, wait: bool) -> None:
        """Sends a checkpoint: see `app.runtime.checkpoint.Save`. With `wait`, returns when it is
        stored; raises `Stopped` if the run must end first.
        """
        self._number += 1
        self._show_answers(checkpoint)
        lengths, body = join(map(pack, checkpoint.values.values()))
        head = {
            "kind": "checkpoint",
            "token": self._token,
            "number": self._number,
            "definition_hash": self._definition_hash,
            "progress": _write_progress(checkpoint.progress),
            "usage": write_usage(self._usage.models),
            "records": [
                (record.id, write_record(record), moment, write_step_event(record, moment))
                for record, moment in checkpoint.records
            ],
            "outcomes": [
                (name, write_outcome(failure)) for name, failure in checkpoint.outcomes.items()
            ],
            "values": list(checkpoint.values),
            "lengths": lengths,
            "dropped": checkpoint.dropped,
        }
        with contextlib.suppress(OSError):  # the worker is gone: this process ends in a moment
            self._worker.send(head, body)
        if wait:
            self._wait_for(self._number)

    def _show_answers(self, checkpoint: Checkpoint) -> None:
        """Sends what models have answered in the steps and items that end with this checkpoint:
        the event of their end comes after it.
        """
        steps = {record.id for record, moment in checkpoint.records if moment == "ended"}
        items = {_place_of(name) for name in checkpoint.outcomes}
        self._live.flush(steps, items)

    def stored(self, number: int) -> None:
        """Notes that the store has this checkpoint. Called in another thread than `save`."""
        self._stored = number
        self._news.set()

    def _wait_for(self, number: int) -> None:
        while True:
            # Cleared before the look, so that news in between are not missed.
            self._news.clear()
            if self._stored >= number:
                return
            if self._stop.requested:
                raise Stopped
            self._news.wait()


_ENDED = {
    StepStatus.COMPLETED: "step.completed",
    StepStatus.FAILED: "step.failed",
    StepStatus.SKIPPED: "step.skipped",
}


def write_step_event(record: StepRecord, moment: str) -> str:
    """The event of a changed record, as the store keeps it; empty if there is none.

    A step that waits for its next try has failed in this one. A step that was broken off has no
    event of its own: that of the execution says why.
    """
    data: dict[str, object] = {"step": record.id, "attempt": record.attempt}
    if moment == "started":
        return write_event("step.started", data)
    waits = record.status is StepStatus.PENDING and record.failure is not None and record.attempt
    type = _ENDED.get(record.status) if moment == "ended" else "step.failed" if waits else None
    if type is None:
        return ""
    if record.failure and type == "step.failed":
        data |= {"error": asdict(record.failure), "retrying": bool(waits)}
    return write_event(type, data)


def _place_of(name: str) -> Place:
    step, _, item = name.partition(":")
    return Place(step, int(item))
