"""The loop of a pipeline: starts the steps that are ready, waits until one ends, and repeats.

`run.py` makes one `PipelineLoop` for each attempt at an execution. `PipelineLoop.run` is the loop:
begin there. Only the loop's thread starts steps (in the order of `schedule.py`) and decides what
follows from their results (`outcomes.py`); the steps themselves work in threads of their own
(`calls.py`).

Results are stored together with the records of the steps that start next, before these start. So
whatever the process dies of, no stored step runs again, and no step runs whose start is not stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.catalog.model import Pipeline
from app.domain.execution import StepStatus
from app.providers.base import Stopped
from app.runtime.aggregate import holds
from app.runtime.batch import Batch
from app.runtime.calls import CallThreads, wait_for_first
from app.runtime.checkpoint import Save, SavedState
from app.runtime.errors import FlowError, RunFailed, StepTimeout
from app.runtime.outcomes import Outcomes
from app.runtime.schedule import Schedule
from app.runtime.steps import StepRunner, StepState
from app.runtime.stop import StopSignal
from app.runtime.usage import UNKNOWN_MODEL, Budget, BudgetExceeded, Usage

DEFAULT_MAX_WORKERS = 4

STOP_GRACE_SECONDS = 2.0
"""How long a failed run waits for its other steps, which it has asked to stop."""


@dataclass(frozen=True, slots=True)
class PipelinePorts:
    """What a run uses of its process. `leaked_threads` gets the number of threads left running."""

    stop: StopSignal
    save: Save
    saved: SavedState
    usage: Usage
    budget: Budget
    leaked_threads: Callable[[int], None]


class PipelineLoop:
    """One attempt at one execution of a pipeline. Used once."""

    def __init__(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Any],
        max_workers: int,
        runner: StepRunner,
        ports: PipelinePorts,
        result_limit_bytes: int,
    ):
        self._pipeline = pipeline
        self._max_workers = max_workers
        self._runner = runner
        self._ports = ports
        self._schedule = Schedule(
            runner.planned(position, step, ports.saved, ports.usage)
            for position, step in enumerate(pipeline.steps)
        )
        self._outcomes = Outcomes(
            inputs, self._schedule, runner, ports.save, ports.saved, result_limit_bytes
        )
        self._threads = CallThreads(pipeline.id)
        self._failed: RunFailed | None = None
        """Why no more steps are started. The run ends with it once its running steps have ended."""

    def run(self) -> dict[str, Any]:
        """The declared outputs, and `metadata` over all steps. Raises `RunFailed` or `Stopped`."""
        stop, schedule, outcomes = self._ports.stop, self._schedule, self._outcomes
        unsubscribe = stop.subscribe(self._ask_steps_to_stop)
        try:
            while True:
                if stop.requested:
                    raise Stopped
                starting = self._choose_steps()
                outcomes.save(wait=True)  # before they start: see the docstring of the module
                for state in starting:
                    self._start(state)
                if self._failed and not schedule.running:
                    raise self._failed
                if not schedule.running and not schedule.ready:
                    break
                self._wait()
                for state in list(schedule.running.values()):
                    self._collect(state)
            outcomes.save(wait=True)  # for steps that ended while they were being started
        except BaseException:
            self._wind_down()
            raise
        finally:
            unsubscribe()
            self._ports.leaked_threads(self._threads.close())
        outputs = {output.key: outcomes.values.get(output.key) for output in self._pipeline.outputs}
        return {**outputs, "metadata": self._metadata()}

    def _choose_steps(self) -> list[StepState]:
        """The steps to start now, noted as started. A step whose condition is false ends here.

        After a failure it chooses none: the steps that still run may end, and their outputs are
        kept.
        """
        chosen: list[StepState] = []
        while not self._failed and (state := self._schedule.next_due()):
            try:
                # The condition comes before the limit: a step that is skipped needs no worker.
                if not self._is_wanted(state):
                    continue
                if len(self._schedule.running) >= self._max_workers:
                    break
                self._check_budget(state)
            except RunFailed as failed:
                self._failed = failed
                break
            self._schedule.start(state)
            state.plan(self._outcomes.values)  # now, since a batch's items count in the progress
            self._outcomes.note_started(state)
            chosen.append(state)
        return chosen

    def _is_wanted(self, state: StepState) -> bool:
        """Whether the step's condition is true. Ends the step if it is false or unusable."""
        when = state.step.when
        try:
            if when is None or holds(when, self._outcomes.values):
                return True
        except FlowError as error:
            if state.step.fails_on_error:
                self._outcomes.fail(state, error)
            else:
                warnings = (f"{error} It counts as false.",)
                self._outcomes.end(state, StepStatus.SKIPPED, None, warnings=warnings)
        else:
            self._outcomes.end(state, StepStatus.SKIPPED, None)
        return False

    def _check_budget(self, state: StepState) -> None:
        others = (other for other in self._schedule.steps.values() if other is not state)
        try:
            self._ports.budget.before_step(sum(other.record.attempt > 0 for other in others))
        except BudgetExceeded as error:
            raise RunFailed.from_error(error, self._runner.details(state.step)) from error

    def _start(self, state: StepState) -> None:
        if state.error is not None:
            self._outcomes.fail(state, state.error)
        elif state.batch is not None:
            self._continue_batch(state, state.batch)
        else:
            self._submit(state, state.given, None)

    def _continue_batch(self, state: StepState, batch: Batch) -> None:
        """Starts as many items as may run at once. When all have ended, ends the step."""
        if batch.complete:
            self._outcomes.join(state, batch.outputs)
        elif batch.has_next and self._may_go_on(state):
            for number, given in batch.next_items():
                self._submit(state, given, number)

    def _may_go_on(self, state: StepState) -> bool:
        """Whether a batch may start further items: not after a stop, nor beyond the budget. The
        items that run then end, and the step with the last of them.
        """
        if state.stop.requested or self._ports.stop.requested:
            return False
        try:
            self._ports.budget.before_call()
        except BudgetExceeded as error:
            state.error = error
            if not state.calls:
                self._outcomes.fail(state, error)
            return False
        return True

    def _submit(self, state: StepState, given: dict[str, Any], item: int | None) -> None:
        work = partial(self._runner.run, state, given, item)
        state.calls.append(self._threads.submit(state.step.id, item, work))
        # A stop that came while the step was being started has missed it.
        if self._ports.stop.requested:
            state.stop.request()

    def _wait(self) -> None:
        """Returns when a call ends, a step exceeds its timeout, or a retry is due."""
        running = self._schedule.running
        may_start = len(running) < self._max_workers and not self._failed
        timeout_seconds = _seconds_until(self._schedule.next_moment(may_start))
        futures = [call.future for state in running.values() for call in state.calls]
        if futures:
            wait_for_first(futures, timeout_seconds)
        elif not running:
            # All that is left waits for a retry. A stop must not wait for that.
            self._ports.stop.wait(timeout_seconds)

    def _collect(self, state: StepState) -> None:
        """Settles the ended calls of a running step, then continues the step or ends it."""
        self._outcomes.settle(state, self._threads.take_ended(state.calls))
        if state.error is not None:
            if not state.calls:  # the other items of its batch have stopped, too
                self._outcomes.fail(state, state.error)
        elif state.batch is not None:
            self._continue_batch(state, state.batch)
        if state.step.id in self._schedule.running and time.monotonic() >= state.give_up_at:
            # Python cannot end a thread: the step is asked to stop, and its threads are abandoned.
            state.stop.request()
            seconds = state.step.timeout_seconds
            late = StepTimeout(f"The step took longer than its timeout of {seconds:g} s.")
            self._outcomes.fail(state, state.error or late)

    def _wind_down(self) -> None:
        """Asks the running steps to stop, waits for them, and keeps what they still put out.

        A stopped run waits without limit: its worker kills the process after a grace period of its
        own. Nobody kills a failed run, so that waits `STOP_GRACE_SECONDS` at most.
        """
        self._ask_steps_to_stop()
        stopped = self._ports.stop.requested
        deadline = math.inf if stopped else time.monotonic() + STOP_GRACE_SECONDS
        while True:
            # Listed before the results are taken: whatever ends in between is taken in the next
            # turn.
            unfinished = self._threads.unfinished
            for state in list(self._schedule.running.values()):
                self._outcomes.settle(state, self._threads.take_ended(state.calls))
            self._outcomes.save(wait=False)
            if not unfinished or time.monotonic() >= deadline:
                break
            wait_for_first(unfinished, _seconds_until(deadline))
        for state in self._schedule.running.values():
            self._outcomes.break_off(state)
        self._outcomes.save(wait=False)

    def _ask_steps_to_stop(self) -> None:
        for state in list(self._schedule.running.values()):  # another thread may request the stop
            state.stop.request()

    def _metadata(self) -> dict[str, Any]:
        records = [state.record for state in self._schedule.steps.values()]
        models = dict.fromkeys(model for record in records for model in record.usage)
        models.pop(UNKNOWN_MODEL, None)
        return {"tokens_used": self._ports.usage.total.total_tokens, "models_used": list(models)}


def _seconds_until(moment: float) -> float | None:
    """From now; None for `inf`, which the standard library does not take as a timeout."""
    return None if moment == math.inf else max(0.0, moment - time.monotonic())
