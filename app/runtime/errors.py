"""Turns exceptions of a run into failures: the type and message for users, and whether to retry.

`run.py` and `outcomes.py` call `RunFailed.from_error` with whatever a flow raised.
"""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from app.catalog.model import Flow, PromptFlow, PythonFlow
from app.domain.execution import Failure
from app.providers.base import ModelError, Stopped
from app.providers.waits import bounded
from app.runtime.places import Place, location
from app.runtime.usage import BudgetExceeded
from app.telemetry.log_fields import CUT
from app.telemetry.masking import READ_FACTOR, mask

MAX_MESSAGE_BYTES = 4096
"""The longest `error.message`, which every status view of the execution returns."""

MAX_NAME_CHARACTERS = 200

MAX_OTHERS = 10
"""How many further errors of a group `details` has. More would hide the reason."""

MAX_OTHER_MESSAGE_BYTES = 512

MAX_ANSWER_CHARACTERS = 2000
"""Of a model's answer that could not be parsed. `details` has its beginning."""

MAX_FILE_CHARACTERS = 256

# An exit code may be a text of any length, of which `repr` would make a copy.
_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = MAX_MESSAGE_BYTES


class TemplateError(Exception):
    """A prompt's template is wrong, or renders into more text than is allowed."""


class InvalidOutput(Exception):
    """JSON cannot hold what a flow returned, or it is too large; or the model's `answer` cannot be
    parsed.
    """

    def __init__(self, message: str = "", answer: str | None = None):
        super().__init__(message)
        self.answer = answer


class FlowError(Exception):
    """A flow cannot be run as it is: its entry point is missing, or an input has the wrong type."""


class StepTimeout(Exception):
    """A step took longer than its own timeout."""


PERMANENT = (TemplateError, InvalidOutput, FlowError)
"""Errors that a retry would only repeat."""


class RunFailed(Exception):
    """A run or a step failed. `retryable`: whether `config.retries` may start it again.

    `retry_after_seconds` is the wait that the model's server asked for, if any. `error` is what the
    flow raised, and `flow` is the flow that did, for the log.
    """

    def __init__(
        self,
        failure: Failure,
        retryable: bool,
        retry_after_seconds: float | None = None,
        error: BaseException | None = None,
        flow: Flow | None = None,
    ):
        super().__init__(failure.message)
        self.failure = failure
        self.retryable = retryable
        self.error = error
        self.flow = flow
        self.retry_after_seconds = bounded(retry_after_seconds, ModelError.longest_wait_seconds)

    @classmethod
    def from_error(
        cls, error: BaseException, details: dict[str, Any], flow: Flow | None = None
    ) -> RunFailed:
        """The failure for whatever a flow raised. A `RunFailed` stays as it is.

        `details` get the place in the flow's files, if there is one, and what a model answered.

        Call it only if the run was not asked to stop: a `Stopped` is a failure of the flow here.
        """
        if is_a(error, RunFailed):
            return cast(RunFailed, error)
        reason, others = reason_and_others(error)
        if is_a(reason, RunFailed):
            return cast(RunFailed, reason)
        details = {**details, **_place_of(error, reason, flow), **_answer_of(reason)}
        if is_a(reason, Stopped):
            reason = FlowError("The flow stopped without being asked to.")
        if others:
            details = {
                **details,
                "other_errors": [_in_short(other) for other in others[:MAX_OTHERS]],
            }
        wait = getattr(reason, "retry_after_seconds", None) if is_a(reason, ModelError) else None
        return cls(failure_from(reason, details), is_retryable(reason), wait, error, flow)


def _place_of(error: BaseException, reason: BaseException, flow: Flow | None) -> Mapping[str, Any]:
    """Where in the flow's files it failed. `error` is the group, if any, in which `reason` came."""
    if isinstance(flow, PromptFlow):
        return {"prompt_file": flow.file}
    if not isinstance(flow, PythonFlow):
        return {}
    try:
        place = location(reason, flow.folder) or location(error, flow.folder)
    except Exception:  # a failure without a place is better than none
        return {}
    return {"location": as_shown(place)} if place else {}


def as_shown(place: Place) -> dict[str, Any]:
    return {
        "file": _plain(place.file, MAX_FILE_CHARACTERS),
        "line": place.line,
        "function": _plain(place.function, MAX_NAME_CHARACTERS),
    }


def _answer_of(reason: BaseException) -> Mapping[str, Any]:
    answer = getattr(reason, "answer", None) if is_a(reason, InvalidOutput) else None
    if not isinstance(answer, str):
        return {}
    shown = _plain(answer, MAX_ANSWER_CHARACTERS)
    return {"answer": shown + CUT if len(answer) > MAX_ANSWER_CHARACTERS else shown}


def reason_and_others(error: BaseException) -> tuple[BaseException, list[BaseException]]:
    """The error that explains a failure, and the other errors of its group, as of a `TaskGroup`.

    The reason is the first error of the group, but a spent budget or a stop goes before all others,
    and a task that was only cancelled because another one failed comes last.
    """
    leaves = list(_leaves(error))
    reason = min(leaves, key=_rank)
    return reason, [leaf for leaf in leaves if leaf is not reason]


def is_a(
    error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]
) -> bool:
    """Like `isinstance`, which would also read `error.__class__`, and so run the flow's code."""
    return issubclass(type(error), kinds)


_EXCEPTIONS = BaseExceptionGroup.__dict__["exceptions"]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group, and of the groups in it, in their order."""
    # No recursion: a flow can put groups into groups deeper than Python's limit.
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if is_a(found, BaseExceptionGroup):
            waiting += reversed(_EXCEPTIONS.__get__(found))
        else:
            yield found


def _rank(error: BaseException) -> int:
    if is_a(error, (BudgetExceeded, Stopped)):
        return 0
    return 2 if is_a(error, (asyncio.CancelledError, GeneratorExit)) else 1


def _in_short(error: BaseException) -> dict[str, str]:
    failure = failure_from(error, {}, MAX_OTHER_MESSAGE_BYTES)
    return {"type": failure.type, "message": failure.message}


def is_retryable(error: BaseException) -> bool:
    if is_a(error, ModelError):
        return cast(ModelError, error).transient
    # What is no `Exception` was meant to end the run: `sys.exit()`, a spent budget.
    return is_a(error, Exception) and not is_a(error, PERMANENT)


def failure_from(
    error: BaseException, details: dict[str, Any], limit_bytes: int = MAX_MESSAGE_BYTES
) -> Failure:
    """The exception's name and message. Secrets are masked, the message is cut at `limit_bytes`.

    Never raises, and never has a stack trace: that could show inputs.
    """
    # The exception is the flow's code: a metaclass may return any `__name__`, so the name is read
    # past it; `__str__` may raise, or return a subclass of `str` with methods of its own. How long
    # it takes is bounded by the timeout of the run.
    name = _plain(type.__dict__["__name__"].__get__(type(error)), MAX_NAME_CHARACTERS)
    try:
        message = _plain(_message(error), limit_bytes) or name
    except BaseException:
        message = f"The run raised {name}, but its message cannot be read."
    return Failure(name, message.encode()[:limit_bytes].decode(errors="ignore"), details)


def _plain(text: str, limit: int) -> str:
    """The beginning of a text, masked, as a plain `str` that UTF-8 can hold."""
    # A slice of `str` itself, because a subclass may override it. It is longer than the limit, so
    # that a secret across the limit is masked before the cut.
    beginning = str.__getitem__(text, slice(limit * READ_FACTOR + 1))
    return mask(beginning, limit).encode(errors="replace").decode()


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"The flow called sys.exit({_shortened.repr(error.code)})."
    if isinstance(error, asyncio.CancelledError) and not error.args:
        return "The flow was cancelled by its own code."
    return str(error)
