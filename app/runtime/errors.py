"""Failures of a run: what a user is told of an exception, and whether trying again may help."""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Iterator
from typing import Any

from app.executions.model import Failure
from app.masking import READ_FACTOR, mask
from app.models.base import ModelError, Stopped
from app.models.waits import bounded
from app.runtime.usage import BudgetExceeded

MAX_MESSAGE_BYTES = 4096
MAX_NAME_CHARACTERS = 200

MAX_OTHERS = 10
"""So many of a group's further errors are told in `details`, each with a short message."""

MAX_OTHER_MESSAGE_BYTES = 512


_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = MAX_MESSAGE_BYTES


class TemplateError(Exception):
    """A prompt's template is wrong, or renders into more than is allowed."""


class InvalidOutput(Exception):
    """What a flow returned is not what JSON can hold, or too large."""


class FlowError(Exception):
    """A flow can not be run as it is: its entry point is missing or of the wrong kind."""


class StepTimeout(Exception):
    """A step took longer than its own timeout."""


HOPELESS = (TemplateError, InvalidOutput, FlowError)
"""Trying again gives the same."""


class RunFailed(Exception):
    """A run ended as failed. `retryable`: whether `config.retries` may start it again."""

    def __init__(self, failure: Failure, retryable: bool, retry_after_seconds: float | None = None):
        super().__init__(failure.message)
        self.failure, self.retryable = failure, retryable
        self.retry_after_seconds = bounded(retry_after_seconds, ModelError.longest_wait_seconds)

    @classmethod
    def from_error(cls, error: BaseException, details: dict[str, Any]) -> RunFailed:
        """Whatever a flow raised. A failure that is one already stays as it is.

        `Stopped` is a failure too: whoever knows that the run was asked to stop does not come here.
        """
        if isinstance(error, RunFailed):
            return error
        reason, others = reasons(error)
        if isinstance(reason, RunFailed):
            return reason
        if isinstance(reason, Stopped):
            reason = FlowError("The flow stopped without being asked to.")
        if others:
            details = {
                **details,
                "other_errors": [_in_short(other) for other in others[:MAX_OTHERS]],
            }
        wait = (
            getattr(reason, "retry_after_seconds", None) if isinstance(reason, ModelError) else None
        )
        return cls(failure_from(reason, details), is_retryable(reason), wait)


def reasons(error: BaseException) -> tuple[BaseException, list[BaseException]]:
    """The reason why a run failed, and the rest of a group of errors (a `TaskGroup` raises such).

    It is the first in the order of the group. What ends a run whatever else happened goes before that:
    a spent budget, and a stop. What was only cancelled because something else failed comes last.
    """
    leaves = list(_leaves(error))
    reason = min(leaves, key=_rank)
    return reason, [leaf for leaf in leaves if leaf is not reason]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _rank(error: BaseException) -> int:
    if isinstance(error, (BudgetExceeded, Stopped)):
        return 0
    return 2 if isinstance(error, (asyncio.CancelledError, GeneratorExit)) else 1


def _in_short(error: BaseException) -> dict[str, str]:
    failure = failure_from(error, {}, MAX_OTHER_MESSAGE_BYTES)
    return {"type": failure.type, "message": failure.message}


def is_retryable(error: BaseException) -> bool:
    if isinstance(error, ModelError):
        return error.transient
    return isinstance(error, Exception) and not isinstance(error, HOPELESS)


def failure_from(
    error: BaseException, details: dict[str, Any], limit_bytes: int = MAX_MESSAGE_BYTES
) -> Failure:
    """The exception's name and message, secrets masked, at most 4 KiB; never a stack trace.

    The name and the message are the flow's own: a metaclass may give any name, and `__str__` may raise, or return
    a text of a class that behaves unlike one. (How long `__str__` takes is bounded by the run's timeout.)
    """
    name = _plain(type.__dict__["__name__"].__get__(type(error)), MAX_NAME_CHARACTERS)
    try:
        message = _plain(_words(error), limit_bytes) or name
    except BaseException:
        message = f"{name}, whose message cannot be read."
    return Failure(name, message.encode()[:limit_bytes].decode(errors="ignore"), details)


def _plain(text: str, limit: int) -> str:
    """The beginning of the text as exactly a `str` without lone surrogates, masked. It may be of a derived class."""
    beginning = str.__getitem__(text, slice(limit * READ_FACTOR + 1))
    return mask(beginning, limit).encode(errors="replace").decode()


def _words(error: BaseException) -> str:
    if isinstance(error, SystemExit):  # of a long code the beginning, since `repr` copies all of it
        return f"The flow called sys.exit({_shortened.repr(error.code)})."
    if isinstance(error, asyncio.CancelledError) and not error.args:
        return "The flow was cancelled by its own code."
    return str(error)
