"""What a child tells its worker of a run while it goes on: an agent's progress, a pipeline's
checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time

from app.domain.execution import Progress
from app.domain.payload import pack
from app.providers.base import Stopped
from app.runtime.checkpoint import Checkpoint
from app.runtime.stop import StopSignal
from app.runtime.usage import Usage
from app.store.steps import write_outcome, write_record, write_usage
from app.worker.protocol import ChildSocket, join

PROGRESS_INTERVAL_SECONDS = 0.2


def _write_progress(progress: Progress) -> str:
    return json.dumps([progress.finished, progress.total, progress.step_name])


class ProgressReports:
    """Sends progress at most five times a second for each attempt; the last word is late, never
    lost.
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
        """Called at least once a second: the worker speaks that often."""
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
    """Has the checkpoints of one pipeline's run stored, in order. `save` is called from one thread."""

    def __init__(
        self, worker: ChildSocket, token: str, definition: str, stop: StopSignal, usage: Usage
    ):
        self._worker, self._token, self._definition = worker, token, definition
        self._stop, self._usage = stop, usage
        self._number = self._stored = 0
        self._news = threading.Event()
        stop.subscribe(self._news.set)

    def save(self, checkpoint: Checkpoint, wait: bool) -> None:
        """See `app.runtime.checkpoint.Save`."""
        self._number += 1
        lengths, body = join(map(pack, checkpoint.values.values()))
        head = {
            "kind": "checkpoint",
            "token": self._token,
            "number": self._number,
            "definition": self._definition,
            "progress": _write_progress(checkpoint.progress),
            "usage": write_usage(self._usage.models),
            "records": [
                (record.id, write_record(record), moment) for record, moment in checkpoint.records
            ],
            "outcomes": [
                (name, write_outcome(failure)) for name, failure in checkpoint.outcomes.items()
            ],
            "values": list(checkpoint.values),
            "lengths": lengths,
            "dropped": checkpoint.dropped,
        }
        with contextlib.suppress(OSError):  # the worker is gone, and so is this process in a moment
            self._worker.send(head, body)
        if wait:
            self._wait_for(self._number)

    def stored(self, number: int) -> None:
        """The worker says that the store has this checkpoint. From another thread than `save`."""
        self._stored = number
        self._news.set()

    def _wait_for(self, number: int) -> None:
        while True:
            self._news.clear()
            if self._stored >= number:
                return
            if self._stop.requested:
                raise Stopped
            self._news.wait()
