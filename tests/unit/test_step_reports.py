"""`app.worker.reports`: a run waits until the store has its checkpoint, unless it must stop."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from app.domain.execution import Progress
from app.providers.base import Stopped
from app.runtime.checkpoint import Checkpoint
from app.runtime.stop import StopSignal
from app.runtime.usage import Usage
from app.worker.live_reports import LiveReports
from app.worker.protocol import ChildSocket
from app.worker.reports import StepReports

NOTHING = Checkpoint(Progress(0, 1))

SOON_SECONDS = 0.2
"""How long a test watches a call that must not return."""

LATE_SECONDS = 30


class Worker:
    """Stands for the worker: keeps the numbers of the checkpoints that it gets."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        self.numbers.append(head["number"])


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def stop() -> StopSignal:
    return StopSignal()


@pytest.fixture
def reports(worker: Worker, stop: StopSignal) -> StepReports:
    socket = cast(ChildSocket, worker)
    live = LiveReports(socket, []).open("token")
    return StepReports(socket, "token", "definition", stop, Usage(), live)


class Saving(threading.Thread):
    """Saves one checkpoint and waits until it is stored; `ended` says how the wait ended."""

    def __init__(self, reports: StepReports):
        super().__init__(daemon=True)
        self._reports, self.ended = reports, ""
        self.start()

    def run(self) -> None:
        try:
            self._reports.save(NOTHING, wait=True)
            self.ended = "stored"
        except Stopped:
            self.ended = "stopped"


def test_the_run_waits_until_the_worker_says_that_its_checkpoint_is_stored(
    reports: StepReports, worker: Worker
) -> None:
    reports.save(NOTHING, wait=False)
    saving = Saving(reports)
    saving.join(SOON_SECONDS)
    assert (saving.ended, worker.numbers) == ("", [1, 2])
    reports.stored(1)  # the one before it
    saving.join(SOON_SECONDS)
    assert saving.ended == ""
    reports.stored(2)
    saving.join(LATE_SECONDS)
    assert saving.ended == "stored"


def test_a_run_that_is_asked_to_stop_waits_no_longer_for_the_store(
    reports: StepReports, stop: StopSignal
) -> None:
    saving = Saving(reports)
    saving.join(SOON_SECONDS)
    stop.request()
    saving.join(LATE_SECONDS)
    assert saving.ended == "stopped"
    reports.save(NOTHING, wait=False)  # what ended well while it stops is still sent
    with pytest.raises(Stopped):
        reports.save(NOTHING, wait=True)
