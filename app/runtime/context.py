"""The `context` of a flow: `Context` for the runtime, and `FlowContext`, the part that flows get.

`run.py` makes one `Context` for each run of a flow. A flow reports progress, writes log lines and
calls models through it; `docs/agents.md` describes it for authors of flows.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from app.domain.execution import Progress
from app.providers.base import Completion, ModelProvider, ModelRejected
from app.providers.token_counts import estimated_tokens
from app.runtime.live import Live, NotShown, Place, ShownAnswer
from app.runtime.messages import as_messages, texts_of
from app.runtime.stop import StopSignal
from app.runtime.usage import Budget, BudgetExceeded, Usage
from app.telemetry.log_fields import renamed

MAX_PROGRESS_STEPS = 1_000_000_000
"""Far more than any flow has: a larger number is a mistake."""

MAX_STEP_NAME = 256
"""The most characters of a step's name, which every status view returns."""


class Context:
    """Everything that belongs to one run of a flow, as the runtime sees it. Thread-safe."""

    def __init__(
        self,
        *,
        execution_id: str,
        attempt: int,
        config: Mapping[str, Any],
        step_key: str,
        thread_id: str | None = None,
        traceparent: str | None = None,
        stop: StopSignal,
        models: ModelProvider,
        usage: Usage,
        budget: Budget,
        log: Callable[..., None],
        report: Callable[[Progress], None] | None = None,
        model_override: str | None = None,
        live: Live | None = None,
        place: Place | None = None,
    ):
        self.execution_id = execution_id
        self.attempt = attempt
        """1 for the first attempt."""
        self.config = config
        """The request's `config`, unchanged."""
        self.step_key = step_key
        """The same in every attempt at the same step: an idempotency key for side effects."""
        self.thread_id = thread_id or execution_id
        """The conversation that a graph with a checkpointer goes on with."""
        self.traceparent = traceparent
        """The trace of the run (W3C Trace Context), to pass on in calls; None without a trace."""
        self.usage = Usage(parent=usage)
        self.last_completion: Completion | None = None
        """The last answer of a model, if there was one."""
        self._budget = budget
        self._exceeded: BudgetExceeded | None = None
        self._stop = stop
        self._models = models
        self._log = log
        self._report = report
        self._model_override = model_override
        self._live: Live = live or NotShown()
        self._place = place or Place()
        self._progress_lock = threading.Lock()
        self._share_done = 0.0

    @property
    def cancelled(self) -> bool:
        """True once the run was asked to end (cancel, timeout). Return soon then, or be killed."""
        return self._stop.requested

    @property
    def stop(self) -> StopSignal:
        """The signal behind `cancelled`, for code of the runtime that waits."""
        return self._stop

    def progress(self, current_step: int, total_steps: int, step_name: str | None = None) -> None:
        """Reports that `current_step` of `total_steps` steps are done. Raises `ValueError`.

        Progress never goes back: a report of less than before is ignored. Inside a pipeline all
        reports are, because there the progress is that of the pipeline's steps.
        """
        # `type(...)`, because True and False are integers for `isinstance`.
        if type(current_step) is not int or type(total_steps) is not int:
            raise ValueError("progress(): current_step and total_steps must be integers.")
        if not 0 <= current_step <= total_steps <= MAX_PROGRESS_STEPS:
            raise ValueError(
                "progress(): current_step must be from 0 to total_steps, "
                f"and total_steps at most {MAX_PROGRESS_STEPS}."
            )
        if step_name is not None and not isinstance(step_name, str):
            raise ValueError("progress(): step_name must be text or None.")
        if not total_steps:
            return  # 0 of 0: a flow with an empty list is right to say so, but it has no percentage
        name = step_name
        if name:
            # A lone surrogate could not be stored.
            name = name[:MAX_STEP_NAME].encode(errors="replace").decode()
        with self._progress_lock:
            if self._report and current_step / total_steps >= self._share_done:
                self._share_done = current_step / total_steps
                self._report(Progress(current_step, total_steps, name))

    def log(self, message: str, /, **fields: Any) -> None:
        """Writes one line to the worker's log, with the execution's id, and tells the event `log`.

        A field with the name of one of the line's own (`event`, `level`, ...) gets the prefix
        `field_` in the worker's log.
        """
        self._log("flow_log", message=message, **renamed(fields))
        self._live.log(self._place, message, fields)

    def complete(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        model: str | None = None,
        *,
        stream: bool | None = None,
        **options: Any,
    ) -> Completion:
        """Calls the model and waits for its answer. The tokens count as the step's.

        With `stream`, the text is shown as it comes (the event `output.delta`). By default it is if
        somebody follows the execution. The result is the same.

        Text is one message of the user. `config.model_override` (or the step's) takes precedence
        over `model`. Raises a `ModelError`; `Stopped` once the run was asked to end;
        `BudgetExceeded` once `config.budget` is spent. The latter two are no `Exception`s, so
        `except Exception` lets them pass.
        """
        sent = as_messages(messages)
        if not (model is None or isinstance(model, str)):
            raise ModelRejected("The model was not called: model must be text.")
        if not (stream is None or isinstance(stream, bool)):
            raise ModelRejected("The model was not called: stream must be true, false or None.")
        self.check_budget()
        if stream or (stream is None and self._live.listened):
            options["on_text"] = self.shown_answer()
        completion = self._models.complete(
            sent, model=self._model_override or model, stop_signal=self._stop, **options
        )
        self.count(completion, texts_of(sent))
        return completion

    @property
    def listened(self) -> bool:
        """Whether somebody follows the execution now."""
        return self._live.listened

    def shown_answer(self) -> ShownAnswer:
        """Shows the answer of one model call, piece by piece."""
        return ShownAnswer(self._live, self._place)

    def check_budget(self) -> None:
        """Called before each model call. Raises `BudgetExceeded`, and remembers it."""
        try:
            self._budget.before_call()
        except BudgetExceeded as error:
            self._exceeded = error
            raise

    def count(self, completion: Completion, sent: Iterable[str]) -> None:
        """Counts an answered model call as the step's. `sent` are the texts of its messages."""
        self.last_completion = completion
        estimate = estimated_tokens(*sent, *_texts_of_answer(completion))
        self.usage.add(completion, estimate)

    def for_flow(self) -> FlowContext:
        """The second argument of a Python flow: a view of this context."""
        return FlowContext(self)

    def raise_if_budget_exceeded(self) -> None:
        """Called after the flow: raises its `BudgetExceeded` if the flow has caught it."""
        if self._exceeded:
            raise self._exceeded


class FlowContext:
    """The second argument of a Python flow: what the documentation describes, and nothing else.

    `config` is a copy and the rest is read-only, so a flow cannot change what the service acts on.
    Methods work only in the process in which the flow runs, not in processes that it forks.
    """

    __slots__ = ("_config", "_inner", "_process")

    def __init__(self, context: Context):
        self._inner = context
        self._config = copy.deepcopy(dict(context.config))
        self._process = os.getpid()

    def __reduce__(self) -> NoReturn:
        raise TypeError("The context of a flow cannot be sent to another process.")

    @property
    def _context(self) -> Context:
        # A forked process has the same socket to the worker: its messages would get mixed up with
        # ours.
        if os.getpid() != self._process:
            raise RuntimeError(
                "The context of a flow works only in the process that runs the flow."
            )
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
        """A copy of the request's `config`."""
        return self._config

    @property
    def step_key(self) -> str:
        """The same in every attempt at the same step: an idempotency key for side effects."""
        return self._inner.step_key

    @property
    def traceparent(self) -> str | None:
        """The trace that the run belongs to (W3C Trace Context); None without one."""
        return self._inner.traceparent

    @property
    def cancelled(self) -> bool:
        """True once the run was asked to end (cancel, timeout). Return soon then, or be killed."""
        return self._context.cancelled

    def progress(self, current_step: int, total_steps: int, step_name: str | None = None) -> None:
        """See `Context.progress`."""
        self._context.progress(current_step, total_steps, step_name)

    def log(self, message: str, /, **fields: Any) -> None:
        """See `Context.log`."""
        self._context.log(message, **fields)

    def complete(self, messages: Any, model: str | None = None, **options: Any) -> Completion:
        """See `Context.complete`. It blocks the event loop; in an async flow use `acomplete`."""
        return self._context.complete(messages, model, **options)

    async def acomplete(
        self, messages: Any, model: str | None = None, **options: Any
    ) -> Completion:
        """The same as `complete`, for asynchronous flows: other flows go on while it waits."""
        return await asyncio.to_thread(self.complete, messages, model, **options)


def _texts_of_answer(completion: Completion) -> list[str]:
    return [
        completion.text,
        json.dumps(completion.tool_calls, default=str) if completion.tool_calls else "",
    ]
