"""What a flow is handed beside its inputs: `FlowContext`, a narrow view of the run's `Context`."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from app.executions.model import Progress
from app.log_fields import renamed
from app.models.base import Completion, ModelProvider, ModelRejected
from app.models.token_counts import estimated_tokens
from app.runtime.messages import as_messages, texts_of
from app.runtime.stop import StopSignal
from app.runtime.usage import Budget, BudgetExceeded, Usage

MAX_PROGRESS_STEPS = 1_000_000_000
MAX_STEP_NAME = 256


class Context:
    """What the runtime knows of one flow's run. All of it may be used from several threads."""

    def __init__(
        self,
        *,
        execution_id: str,
        attempt: int,
        config: Mapping[str, Any],
        step_key: str,
        traceparent: str | None = None,
        stop: StopSignal,
        models: ModelProvider,
        usage: Usage,
        budget: Budget,
        log: Callable[..., None],
        report: Callable[[Progress], None] | None = None,
        model_override: str | None = None,
    ):
        self.execution_id = execution_id
        self.attempt = attempt
        """1 for the first attempt."""
        self.config = config
        """The request's `config`, as it was sent."""
        self.step_key = step_key
        """The same for every attempt of the same step: a key for idempotent side effects."""
        self.traceparent = traceparent
        """The trace that the run belongs to (W3C Trace Context), for calls that the flow makes; None without one."""
        self.usage = Usage(parent=usage)
        self.last_completion: Completion | None = None
        """What the model answered last, if it was asked."""
        self._budget, self._refused = budget, None  # type: Budget, BudgetExceeded | None
        self._stop, self._models, self._log, self._report = stop, models, log, report
        self._model_override = model_override
        self._progressing = threading.Lock()
        self._share_done = 0.0

    @property
    def cancelled(self) -> bool:
        """True once the run was asked to end (cancel, timeout); then return soon, or be killed."""
        return self._stop.requested

    @property
    def stop(self) -> StopSignal:
        """The signal behind `cancelled`, for code that waits."""
        return self._stop

    def progress(self, current_step: int, total_steps: int, step_name: str | None = None) -> None:
        """Says how far the run is: `current_step` of `total_steps` are done. Raises `ValueError`.

        What would be a step back is passed over, and so is 0 of 0, which is how far an empty list is.
        Inside a pipeline the pipeline's own steps are what is shown.
        """
        if type(current_step) is not int or type(total_steps) is not int:
            raise ValueError("progress(current_step, total_steps): both are whole numbers.")
        if not 0 <= current_step <= total_steps <= MAX_PROGRESS_STEPS:
            raise ValueError(
                "progress(current_step, total_steps): 0 <= current_step <= total_steps."
            )
        if step_name is not None and not isinstance(step_name, str):
            raise ValueError("progress(..., step_name): it is text, or None.")
        if not total_steps:
            return  # an empty list of things to do is no error, and nothing that could be shown
        name = (
            step_name[:MAX_STEP_NAME].encode(errors="replace").decode() if step_name else step_name
        )
        with self._progressing:
            if self._report and current_step / total_steps >= self._share_done:
                self._share_done = current_step / total_steps
                self._report(Progress(current_step, total_steps, name))

    def log(self, message: str, /, **fields: Any) -> None:
        """One line in the worker's log, with the execution's id.

        A field that has the name of one of the line's own (`event`, `level`, ...) gets `field_` in front of it.
        """
        self._log("flow_log", message=message, **renamed(fields))

    def complete(
        self, messages: str | Sequence[Mapping[str, Any]], model: str | None = None, **options: Any
    ) -> Completion:
        """Asks the service's model and waits; the tokens count as the step's.

        A text is one message of the user's. `config.model_override` (or the step's) goes before
        `model`. Raises a `ModelError`; once the run is asked to end, it raises `Stopped`, and once
        `config.budget` is spent, `BudgetExceeded`; neither is an `Exception`, so that
        `except Exception` lets them pass.
        """
        asked = as_messages(messages)
        if not (model is None or isinstance(model, str)):
            raise ModelRejected("The model was not asked: model must be a text.")
        try:
            self._budget.before_call()
        except BudgetExceeded as refused:
            self._refused = refused
            raise
        completion = self._models.complete(
            asked, model=self._model_override or model, stop_signal=self._stop, **options
        )
        self.last_completion = completion
        self.usage.add(
            completion, estimated_tokens(*texts_of(asked), *_texts_of_answer(completion))
        )
        return completion

    def for_flow(self) -> FlowContext:
        """The second argument of a Python flow."""
        return FlowContext(self)

    def hold_to_budget(self) -> None:
        """For whoever ran the flow: raises `BudgetExceeded` where the flow was told so, and kept it to itself."""
        if self._refused:
            raise self._refused


class FlowContext:
    """The second argument of a Python flow: what the documentation names, and nothing else.

    A flow cannot change what the service decides with. `config` is a copy, the rest is read-only. What
    speaks to the service works in the flow's own process alone, not in those that it forks.
    """

    __slots__ = ("_config", "_inner", "_process")

    def __init__(self, context: Context):
        self._inner, self._config = context, copy.deepcopy(dict(context.config))
        self._process = os.getpid()

    def __reduce__(self) -> NoReturn:
        raise TypeError("The context of a flow cannot be sent to another process.")

    @property
    def _context(self) -> Context:
        if os.getpid() != self._process:
            raise RuntimeError("The context of a flow works in the process of the flow alone.")
        return self._inner

    @property
    def execution_id(self) -> str:
        return self._inner.execution_id

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self._inner.attempt

    @property
    def config(self) -> dict[str, Any]:
        """The request's `config`, as it was sent."""
        return self._config

    @property
    def step_key(self) -> str:
        """The same for every attempt of the same step: a key for idempotent side effects."""
        return self._inner.step_key

    @property
    def traceparent(self) -> str | None:
        """The trace that the run belongs to (W3C Trace Context); None without one."""
        return self._inner.traceparent

    @property
    def cancelled(self) -> bool:
        """True once the run was asked to end (cancel, timeout); then return soon, or be killed."""
        return self._context.cancelled

    def progress(self, current_step: int, total_steps: int, step_name: str | None = None) -> None:
        """See `Context.progress`."""
        self._context.progress(current_step, total_steps, step_name)

    def log(self, message: str, /, **fields: Any) -> None:
        """See `Context.log`."""
        self._context.log(message, **fields)

    def complete(self, messages: Any, model: str | None = None, **options: Any) -> Completion:
        """See `Context.complete`. In an asynchronous flow it holds up all others: use `acomplete`."""
        return self._context.complete(messages, model, **options)

    async def acomplete(
        self, messages: Any, model: str | None = None, **options: Any
    ) -> Completion:
        """As `complete`, for asynchronous flows: others go on while it waits."""
        return await asyncio.to_thread(self.complete, messages, model, **options)


def _texts_of_answer(completion: Completion) -> list[str]:
    return [completion.text, json.dumps(completion.tool_calls) if completion.tool_calls else ""]
