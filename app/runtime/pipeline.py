"""Runs a pipeline: one loop in one thread starts what is ready, waits for something to end, and goes on.

Only the loop starts steps, stores what became of them, and decides; the steps themselves work in threads.
What has ended is stored, together with what is about to start, before it starts: so whatever dies, what was
stored is never done again, and nothing runs that the store has not heard of. Threads can not be ended: a
step that runs out of its time is asked to stop, and left behind.
"""

from __future__ import annotations

import graphlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from app.catalog.model import Pipeline
from app.executions.model import Progress, StepStatus
from app.models.base import Stopped
from app.runtime.aggregate import holds
from app.runtime.batch import Batch
from app.runtime.checkpoint import Found, Journal, Save
from app.runtime.errors import FlowError, InvalidOutput, RunFailed, StepTimeout
from app.runtime.outputs import encode
from app.runtime.steps import StepRunner, StepState, Work
from app.runtime.stop import StopSignal
from app.runtime.usage import UNKNOWN_MODEL, Budget, BudgetExceeded, Usage

DEFAULT_MAX_WORKERS = 4

MAX_THREADS = 10_000
"""More than can ever run at once: how many do is decided by the loop, and deaf ones keep nobody waiting."""

STOP_GRACE_SECONDS = 2.0
"""How long a run that fails waits for its other steps, which it has asked to stop."""


@dataclass(frozen=True, slots=True)
class PipelinePorts:
    """What a pipeline's run needs of its surroundings. `left_behind` is told of steps that did not end."""

    stop: StopSignal
    save: Save
    found: Found
    usage: Usage
    budget: Budget
    left_behind: Callable[[int], None]


class PipelineRun:
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
        self._pipeline, self._runner, self._ports = pipeline, runner, ports
        self._max_workers, self._limit_bytes = max_workers, result_limit_bytes
        self._journal = Journal(ports.save, result_limit_bytes, ports.found)
        self._values = dict(inputs)
        self._states = {
            step.id: runner.planned(position, step, ports.found, ports.usage)
            for position, step in enumerate(pipeline.steps)
        }
        self._order = graphlib.TopologicalSorter(
            {step.id: step.depends_on for step in pipeline.steps}
        )
        self._ready: list[StepState] = []
        self._running: dict[str, StepState] = {}
        self._futures: list[Future[Any]] = []
        self._failed: RunFailed | None = None
        self._done = 0

    def run(self) -> dict[str, Any]:
        """The declared outputs, and `metadata` over all steps. Raises `RunFailed`, `BudgetExceeded` or `Stopped`."""
        threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=self._pipeline.id)
        unsubscribe = self._ports.stop.subscribe(self._ask_all_to_stop)
        try:
            self._take_over()
            while self._start_what_is_ready(threads):
                self._wait()
                self._collect(threads)
            self._save(wait=True)
        except BaseException:
            self._wind_down()
            raise
        finally:
            unsubscribe()
            threads.shutdown(wait=False, cancel_futures=True)
            self._ports.left_behind(sum(not each.done() for each in self._futures))
        outputs = {each.key: self._values.get(each.key) for each in self._pipeline.outputs}
        return {**outputs, "metadata": self._metadata()}

    # What earlier attempts have done.

    def _take_over(self) -> None:
        for state in self._states.values():
            if state.record.done:
                self._values[state.step.output_key] = self._ports.found.value(state.step.id)
            else:
                self._journal.note(state.record)
        self._order.prepare()
        self._advance()

    def _advance(self) -> None:
        """Finds what has become ready; what is done already makes more ready."""
        while ids := self._order.get_ready():
            for state in sorted(
                (self._states[id] for id in ids), key=lambda each: each.record.position
            ):
                if state.record.done:
                    self._done += 1
                    self._order.done(state.step.id)
                else:
                    self._ready.append(state)

    # The loop.

    def _start_what_is_ready(self, threads: ThreadPoolExecutor) -> bool:
        """False when all is done. Raises what keeps the run from going on, once nothing runs any more."""
        if self._ports.stop.requested:
            raise Stopped
        starting = list(self._pick())
        self._save(wait=True)
        for state in starting:
            self._start(state, threads)
        if self._failed and not self._running:
            raise self._failed
        return bool(self._running or self._ready)

    def _pick(self) -> Iterator[StepState]:
        """Steps to start now; none more once one could not be: those that run may end, and are kept."""
        while not self._failed and (state := self._next_due()):
            try:
                if not self._wanted(state):
                    continue
                if len(self._running) >= self._max_workers:
                    return
                self._check_budget(state)
            except RunFailed as failed:
                self._failed = failed
                return
            self._ready.remove(state)
            state.begin()
            self._running[state.step.id] = state
            self._journal.note(state.record, "started")
            yield state

    def _next_due(self) -> StepState | None:
        return next((each for each in self._ready if time.monotonic() >= each.due_at), None)

    def _wanted(self, state: StepState) -> bool:
        """Whether its condition holds. If it does not, or cannot be evaluated, the step has ended."""
        when = state.step.when
        try:
            if when is None or holds(when, self._values):
                return True
        except FlowError as error:
            self._ready.remove(state)
            if state.step.fails_on_error:
                self._fail(state, error)
            else:
                self._end(
                    state, StepStatus.SKIPPED, None, warnings=(f"{error} It counts as false.",)
                )
        else:
            self._ready.remove(state)
            self._end(state, StepStatus.SKIPPED, None)
        return False

    def _check_budget(self, state: StepState) -> None:
        try:
            others = (each for each in self._states.values() if each is not state)
            self._ports.budget.before_step(sum(each.record.attempt > 0 for each in others))
        except BudgetExceeded as error:
            raise RunFailed.from_error(error, self._runner.details(state.step)) from error

    def _start(self, state: StepState, threads: ThreadPoolExecutor) -> None:
        given = {
            name: self._values.get(source) for name, source in state.step.input_mapping.items()
        }
        if not state.step.batch_mode:
            self._submit(threads, state, given, None)
            return
        try:
            state.batch = Batch(state.step, given, state.done_items)
        except FlowError as error:
            self._fail(state, error)
        else:
            self._feed(state, threads)

    def _feed(self, state: StepState, threads: ThreadPoolExecutor) -> None:
        """Starts items of a batch while there is room, or ends it when there are none left."""
        assert state.batch is not None
        if state.batch.complete:
            outputs = state.batch.outputs
            try:
                text = encode(
                    outputs, self._limit_bytes, f"The output of the step {state.step.id!r}"
                )
                self._journal.join(state.step.id, text, len(outputs))
            except InvalidOutput as error:
                self._fail(state, error)
                return
            self._end(state, StepStatus.COMPLETED, outputs)
            return
        for number, given in state.batch.next_items():
            self._submit(threads, state, given, number)

    def _submit(
        self, threads: ThreadPoolExecutor, state: StepState, given: dict[str, Any], item: int | None
    ) -> None:
        future = threads.submit(copy_context().run, self._runner.run, state, given, item)
        self._futures.append(future)
        state.works.append(Work(state, item, future))
        if self._ports.stop.requested:
            state.stop.request()

    def _wait(self) -> None:
        """Until something ends, runs out of time, or is due again."""
        moments = [each.give_up_at for each in self._running.values()]
        if len(self._running) < self._max_workers and not self._failed:
            moments += [each.due_at for each in self._ready]
        soonest = min(moments, default=float("inf")) - time.monotonic()
        timeout_seconds = None if soonest == float("inf") else max(0.0, soonest)
        futures = [work.future for state in self._running.values() for work in state.works]
        if futures:
            wait(futures, timeout_seconds, FIRST_COMPLETED)
        elif not self._running:
            self._ports.stop.wait(timeout_seconds)

    def _collect(self, threads: ThreadPoolExecutor) -> None:
        for state in list(self._running.values()):
            self._note_ended_works(state)
            if state.error is not None:
                if not state.works:
                    self._fail(state, state.error)
            elif state.batch is not None and state.step.id in self._running:
                self._feed(state, threads)
            if state.step.id in self._running and time.monotonic() >= state.give_up_at:
                state.stop.request()
                seconds = state.step.timeout_seconds
                late = StepTimeout(f"The step took longer than its timeout of {seconds:g} s.")
                self._fail(state, state.error or late)

    def _note(self, work: Work) -> None:
        """What a call came to. The first error of a batch ends it, once its other items have stopped."""
        state, step = work.state, work.state.step
        try:
            result = work.future.result()
            self._journal.keep(
                step.id if work.item is None else f"{step.id}:{work.item}", result.text
            )
        except BaseException as error:
            if state.stop.requested and (state.error is None or isinstance(error, Stopped)):
                return  # what a flow raises because it was asked to stop is not its failure
            if work.item is not None:
                self._journal.note_item(
                    f"{step.id}:{work.item}", RunFailed.from_error(error, {}).failure
                )
            state.error = state.error or error
            state.stop.request()
        else:
            if work.item is None:
                self._end(state, StepStatus.COMPLETED, result.output, warnings=result.warnings)
                return
            assert state.batch is not None
            state.batch.end(work.item, result.output)
            state.done_items[work.item] = result.output
            self._journal.note_item(f"{step.id}:{work.item}")
            if result.warnings:
                state.warn(result.warnings)

    # How a step ends.

    def _end(self, state: StepState, status: StepStatus, output: Any, **changes: Any) -> None:
        """The pipeline goes on from here."""
        self._running.pop(state.step.id, None)
        self._values[state.step.output_key] = output
        state.become(status, done=True, **changes)
        self._journal.note(state.record, "ended")
        self._done += 1
        self._order.done(state.step.id)
        self._advance()

    def _fail(self, state: StepState, error: BaseException) -> None:
        """Tried again, passed over where the step may fail, or the failure of the whole run."""
        failed = RunFailed.from_error(error, self._runner.details(state.step))
        state.works.clear()  # what still runs of this try is not listened to any more
        self._running.pop(state.step.id, None)
        if failed.retryable and state.tries <= state.step.retries:
            state.wait_for_retry(failed.failure, failed.retry_after_seconds)
            self._journal.note(state.record)
            self._ready.append(state)
        elif state.step.required or isinstance(error, BudgetExceeded):
            state.become(StepStatus.FAILED, failure=failed.failure)
            self._journal.note(state.record, "ended")
            raise failed
        else:
            self._journal.drop_items(state.step.id, state.done_items)
            self._end(state, StepStatus.FAILED, None, failure=failed.failure)

    def _wind_down(self) -> None:
        """Asks what still runs to stop, and keeps what ends well all the same, as it ends.

        A stopped run is given all the time it wants, as its worker ends it by force; one that failed has to end
        by itself.
        """
        self._ask_all_to_stop()
        grace_seconds = float("inf") if self._ports.stop.requested else STOP_GRACE_SECONDS
        deadline = time.monotonic() + grace_seconds
        while True:
            for state in list(self._running.values()):
                self._note_ended_works(state)
            self._save(wait=False)
            waiting = [each for each in self._futures if not each.done()]
            left_seconds = deadline - time.monotonic()
            if not waiting or left_seconds <= 0:
                break
            wait(waiting, None if left_seconds == float("inf") else left_seconds, FIRST_COMPLETED)
        for state in list(self._running.values()):
            error, details = state.error, self._runner.details(state.step)
            failure = RunFailed.from_error(error, details).failure if error else None
            state.become(StepStatus.FAILED if failure else StepStatus.CANCELLED, failure=failure)
            self._journal.note(state.record, "ended")
        self._save(wait=False)

    def _note_ended_works(self, state: StepState) -> None:
        ended = [work for work in state.works if work.future.done()]
        for work in ended:
            state.works.remove(work)
            self._futures.remove(work.future)
            self._note(work)
        if ended and state.batch is not None:
            state.become(state.record.status)  # with what it has used by now
            self._journal.note(state.record)

    def _ask_all_to_stop(self) -> None:
        for state in list(self._running.values()):
            state.stop.request()

    # What is said of it.

    def _save(self, wait: bool) -> None:
        name = next(iter(self._running), None)  # of those that run, the one that started first
        self._journal.flush(Progress(self._done, len(self._states), name), wait)

    def _metadata(self) -> dict[str, Any]:
        used = dict.fromkeys(
            model for state in self._states.values() for model in state.record.usage
        )
        models = [model for model in used if model != UNKNOWN_MODEL]
        return {"tokens_used": self._ports.usage.total.total_tokens, "models_used": models}
