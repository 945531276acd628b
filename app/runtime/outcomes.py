"""Ends the calls and steps of a pipeline: keeps outputs, notes records, schedules retries.

The loop in `pipeline.py` calls it whenever calls or steps end. Nothing here starts a step or waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domain.execution import StepStatus
from app.providers.base import Stopped
from app.runtime.calls import Call
from app.runtime.checkpoint import Journal, Save, SavedState
from app.runtime.errors import InvalidOutput, RunFailed, is_a
from app.runtime.outputs import encode
from app.runtime.schedule import Schedule
from app.runtime.steps import StepRunner, StepState
from app.runtime.usage import BudgetExceeded


class Outcomes:
    """The values of one run, and the journal of what is stored next. For the loop's thread only."""

    def __init__(
        self,
        inputs: Mapping[str, Any],
        schedule: Schedule,
        runner: StepRunner,
        save: Save,
        saved: SavedState,
        result_limit_bytes: int,
    ):
        self.values = dict(inputs)
        """The inputs, and under its `output_key` the output of each step that has ended."""
        self._schedule = schedule
        self._runner = runner
        self._journal = Journal(save, result_limit_bytes, saved)
        self._limit_bytes = result_limit_bytes
        for state in schedule.steps.values():
            if state.record.done:
                self.values[state.step.output_key] = saved.value(state.step.id)
            else:
                self._journal.note(state.record)

    def save(self, wait: bool) -> None:
        """Stores what was noted since the last call; see `Journal.flush`."""
        self._journal.flush(self._schedule.progress, wait)

    def note_started(self, state: StepState) -> None:
        self._journal.note(state.record, "started")

    def settle(self, state: StepState, ended: list[Call]) -> None:
        """Takes the results of a step's ended calls. A step without a batch ends with its call."""
        for call in ended:
            self._settle_call(state, call)
        if ended and state.batch is not None:
            state.note_share()
            state.become(state.record.status)  # records the usage of the items so far
            self._journal.note(state.record)

    def _settle_call(self, state: StepState, call: Call) -> None:
        """Keeps the output, or the error as the step's. Of a batch, the first error counts."""
        try:
            result = call.future.result()
            self._journal.keep(call.name, result.text)
        except BaseException as error:
            if state.stop.requested and (state.error is None or is_a(error, Stopped)):
                return  # what a flow raises because it was asked to stop is not its failure
            if call.item is not None:
                flow = self._runner.flow_of(state.step)
                failed = RunFailed.from_error(error, {}, flow)
                self._journal.note_item(call.name, failed.failure)
            state.error = state.error or error
            state.stop.request()
            return
        if call.item is None:
            self.end(state, StepStatus.COMPLETED, result.output, warnings=result.warnings)
            return
        assert state.batch is not None
        state.batch.end(call.item, result.output)
        state.done_items[call.item] = result.output
        self._journal.note_item(call.name)
        if result.warnings:
            state.warn(result.warnings)

    def join(self, state: StepState, outputs: list[Any]) -> None:
        """Ends a batch: one list takes the place of the outputs of its items."""
        try:
            text = encode(outputs, self._limit_bytes, f"The output of the step {state.step.id!r}")
            self._journal.join(state.step.id, text, len(outputs))
        except InvalidOutput as error:
            self.fail(state, error)
        else:
            self.end(state, StepStatus.COMPLETED, outputs)

    def end(self, state: StepState, status: StepStatus, output: Any, **changes: Any) -> None:
        """Ends a step in a way that lets the pipeline go on. `changes` are fields of its record."""
        self.values[state.step.output_key] = output
        state.become(status, done=True, **changes)
        self._journal.note(state.record, "ended")
        self._schedule.finish(state)

    def fail(self, state: StepState, error: BaseException) -> None:
        """Schedules a retry, or ends a step that may fail, or raises the `RunFailed` of the run."""
        failed = self._failure(state, error)
        state.calls.clear()  # the results of calls that still run are ignored from here on
        if failed.retryable and state.tries <= state.step.retries:
            state.wait_for_retry(failed.failure, failed.retry_after_seconds)
            self._journal.note(state.record)
            self._schedule.retry(state)
        elif state.step.required or is_a(error, BudgetExceeded):
            state.become(StepStatus.FAILED, failure=failed.failure)
            self._journal.note(state.record, "ended")
            self._schedule.remove(state)
            raise failed
        else:
            self._journal.drop_items(state.step.id, state.done_items)
            self.end(state, StepStatus.FAILED, None, failure=failed.failure)

    def break_off(self, state: StepState) -> None:
        """Records a step that was running when its run ended. A later attempt starts it again."""
        if state.error:
            failure = self._failure(state, state.error).failure
            state.become(StepStatus.FAILED, failure=failure)
        else:
            state.become(StepStatus.CANCELLED, failure=None)
        self._journal.note(state.record, "ended")

    def _failure(self, state: StepState, error: BaseException) -> RunFailed:
        flow = self._runner.flow_of(state.step)
        return RunFailed.from_error(error, self._runner.details(state.step), flow)
