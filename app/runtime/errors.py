"""Failures of a run: what a user is told of an exception, and whether trying again may help."""

from __future__ import annotations

import reprlib
from typing import Any

from app.executions.model import Failure
from app.masking import READ_FACTOR, mask
from app.models.base import ModelError
from app.models.waits import bounded

MAX_MESSAGE_BYTES = 4096
MAX_NAME_CHARACTERS = 200


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
        """Whatever a flow raised. A failure that is one already stays as it is."""
        if isinstance(error, RunFailed):
            return error
        wait = getattr(error, "retry_after_seconds", None) if isinstance(error, ModelError) else None
        return cls(failure_from(error, details), is_retryable(error), wait)


def is_retryable(error: BaseException) -> bool:
    if isinstance(error, ModelError):
        return error.transient
    return isinstance(error, Exception) and not isinstance(error, HOPELESS)


def failure_from(error: BaseException, details: dict[str, Any]) -> Failure:
    """The exception's name and message, secrets masked, at most 4 KiB; never a stack trace.

    The name and the message are the flow's own: a metaclass may give any name, and `__str__` may raise, or return
    a text of a class that behaves unlike one. (How long `__str__` takes is bounded by the run's timeout.)
    """
    name = _plain(type.__dict__["__name__"].__get__(type(error)), MAX_NAME_CHARACTERS)
    try:
        said = _exit_message(error) if isinstance(error, SystemExit) else str(error)
        message = _plain(said, MAX_MESSAGE_BYTES) or name
    except BaseException:
        message = f"{name}, whose message can not be read."
    return Failure(name, message.encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore"), details)


def _plain(text: str, limit: int) -> str:
    """The beginning of the text as exactly a `str` without lone surrogates, masked. It may be of a derived class."""
    beginning = str.__getitem__(text, slice(limit * READ_FACTOR + 1))
    return mask(beginning, limit).encode(errors="replace").decode()


def _exit_message(error: SystemExit) -> str:
    """The code as it is written in Python; of a long one the beginning, since `repr` copies all of it."""
    return f"The flow called sys.exit({_shortened.repr(error.code)})."
