"""Runs a pipeline: one loop in one thread starts what is ready, waits for the first to end, and goes on.

Only the loop starts steps, reports progress and decides; the steps themselves run in threads. Threads can
not be ended: a step that runs out of its time is asked to stop, and left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from app.catalog.model import Agent, Pipeline, Step
from app.executions.model import Progress
from app.models.base import Stopped
from app.runtime.aggregate import aggregate, holds
from app.runtime.errors import FlowError, RunFailed, StepTimeout
from app.runtime.outputs import check
from app.runtime.stop import StopSignal

DEFAULT_MAX_WORKERS = 4
RETRY_SECONDS = (0.5, 2.0, 8.0)

RunStep = Callable[..., dict[str, Any]]
"""`(agent, flow_id, inputs, *, step, stop, model_override)` -> the agent's outputs: `output` and `metadata`."""


@dataclass(slots=True)
class _Running:
    """One try of one step."""

    step: Step
    number: int
    stop: StopSignal
    future: Future[Any]
    give_up_at: float


@dataclass(slots=True)
class PipelineRun:
    pipeline: Pipeline
    agents: Mapping[str, Agent]
    inputs: Mapping[str, Any]
    config: Mapping[str, Any]
    run_step: RunStep
    stop: StopSignal
    report: Callable[[Progress], None]
    _values: dict[str, Any] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _running: dict[str, _Running] = field(default_factory=dict)
    _retry_at: dict[str, tuple[float, int]] = field(default_factory=dict)
    _metadata: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """The declared outputs, and `metadata` over all steps. Raises `RunFailed` or `Stopped`."""
        self._values = dict(self.inputs)
        max_workers = self.config.get("max_workers", DEFAULT_MAX_WORKERS)
        threads = ThreadPoolExecutor(max_workers, thread_name_prefix=f"{self.pipeline.id}-step")
        unsubscribe = self.stop.subscribe(self._stop_all)
        try:
            while len(self._done) < len(self.pipeline.steps):
                if self.stop.requested:
                    raise Stopped
                self._start_what_is_ready(threads, max_workers)
                self._report()
                self._wait_and_collect()
        finally:
            unsubscribe()
            self._stop_all()
            threads.shutdown(wait=False, cancel_futures=True)
        outputs = {each.key: self._values.get(each.key) for each in self.pipeline.outputs}
        return {**outputs, "metadata": self._summed()}

    def _start_what_is_ready(self, threads: ThreadPoolExecutor, max_workers: int) -> None:
        for step in self.pipeline.steps:
            if step.id in self._done or step.id in self._running or not step.depends_on <= self._done:
                continue
            due_at, number = self._retry_at.get(step.id, (0.0, 1))
            if len(self._running) >= max_workers or time.monotonic() < due_at:
                continue
            if step.when is not None and not self._wanted(step):
                self._end(step, None)
                return self._start_what_is_ready(threads, max_workers)  # others may be ready by that
            self._start(threads, step, number)
        return None

    def _wanted(self, step: Step) -> bool:
        try:
            return holds(step.when or "", self._values)
        except FlowError as error:
            raise RunFailed.from_error(error, self._details(step)) from error

    def _start(self, threads: ThreadPoolExecutor, step: Step, number: int) -> None:
        stop = StopSignal()
        given = {name: self._values.get(source) for name, source in step.input_mapping.items()}
        give_up_at = time.monotonic() + step.timeout_seconds if step.timeout_seconds else float("inf")
        future = threads.submit(copy_context().run, self._work, step, given, stop)
        self._running[step.id] = _Running(step, number, stop, future, give_up_at)
        if self.stop.requested:
            stop.request()

    def _wait_and_collect(self) -> None:
        """Waits until something ends, runs out of time, or is due again."""
        moments = [each.give_up_at for each in self._running.values()]
        moments += [at for id, (at, _) in self._retry_at.items() if id not in self._running and id not in self._done]
        soonest = min(moments, default=float("inf")) - time.monotonic()
        futures = [each.future for each in self._running.values()]
        timeout_seconds = None if soonest == float("inf") else max(0.0, soonest)
        if futures:
            wait(futures, timeout_seconds, FIRST_COMPLETED)
        elif timeout_seconds:
            self.stop.wait(timeout_seconds)
        for each in list(self._running.values()):
            if each.future.done():
                del self._running[each.step.id]
                self._collect(each)
            elif time.monotonic() >= each.give_up_at:
                del self._running[each.step.id]
                each.stop.request()
                seconds = each.step.timeout_seconds
                self._fail(each, StepTimeout(f"The step took longer than its timeout of {seconds:g} s."))

    def _collect(self, ended: _Running) -> None:
        error = ended.future.exception()
        if error is None:
            self._end(ended.step, ended.future.result())
        elif isinstance(error, Stopped) and self.stop.requested:
            raise Stopped
        else:
            self._fail(ended, error)

    def _end(self, step: Step, output: Any) -> None:
        self._done.add(step.id)
        self._values[step.output_key] = output

    def _fail(self, ended: _Running, error: BaseException) -> None:
        step = ended.step
        failed = RunFailed.from_error(error, self._details(step))
        if failed.retryable and ended.number <= step.retries:
            pauses = step.backoff_seconds or RETRY_SECONDS
            pause = pauses[min(ended.number, len(pauses)) - 1]
            self._retry_at[step.id] = (time.monotonic() + (failed.retry_after_seconds or pause), ended.number + 1)
        elif step.required:
            raise failed
        else:
            self._end(step, None)

    def _work(self, step: Step, given: dict[str, Any], stop: StopSignal) -> Any:
        """What a step does, in its thread."""
        if step.type == "batch_aggregator":
            return aggregate(step.aggregation, given.get("items"))
        if not step.batch_mode:
            return self._run_agent(step, given, stop)
        name, items = _batch(step, given)
        workers = (step.max_workers or DEFAULT_MAX_WORKERS) if step.concurrent else 1
        threads = ThreadPoolExecutor(workers, thread_name_prefix=f"{step.id}-item")
        try:
            futures = [
                threads.submit(copy_context().run, self._run_agent, step, {**given, name: item}, stop, position)
                for position, item in enumerate(items)
            ]
            return [future.result() for future in futures]
        except BaseException:
            stop.request()  # one item failed: the others need not go on
            raise
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _run_agent(self, step: Step, given: dict[str, Any], stop: StopSignal, item: int | None = None) -> Any:
        override = self._override(step)
        outputs = self.run_step(
            self.agents[step.agent or ""],
            override.get("flow", step.flow),
            given,
            step=step.id if item is None else f"{step.id}:{item}",
            stop=stop,
            model_override=self.config.get("model_override") or override.get("model") or step.model_override,
        )
        check(outputs["output"], f"The output of {step.id}")
        self._metadata.append(outputs["metadata"])
        return outputs["output"]

    def _override(self, step: Step) -> Mapping[str, str]:
        return self.pipeline.variants.get(self.config.get("variant", ""), {}).get(step.id, {})

    def _report(self) -> None:
        """The name is that of the running step which started first."""
        name = next(iter(self._running), None)
        self.report(Progress(len(self._done), len(self.pipeline.steps), name))

    def _summed(self) -> dict[str, Any]:
        models = dict.fromkeys(each["model_used"] for each in self._metadata if each["model_used"])
        return {"tokens_used": sum(each["tokens_used"] or 0 for each in self._metadata), "models_used": list(models)}

    def _details(self, step: Step) -> dict[str, Any]:
        flow_id = self._override(step).get("flow", step.flow)
        agent = self.agents.get(step.agent or "")
        if agent:
            flow = agent.flow(flow_id)
            flow_id = flow.name if flow else flow_id
        return {"pipeline_id": self.pipeline.id, "step_id": step.id, "agent_id": step.agent, "flow_id": flow_id}

    def _stop_all(self) -> None:
        for each in list(self._running.values()):
            each.stop.request()


def _batch(step: Step, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The one mapped input that is a list, and its items."""
    lists = [name for name, value in given.items() if isinstance(value, list)]
    if len(lists) != 1:
        found = ", ".join(lists) or "none"
        raise FlowError(f"batch_mode needs exactly one list among the mapped inputs of {step.id!r}; there is: {found}.")
    return lists[0], given[lists[0]]
