"""Failures of a run: what a user is told of an exception, and whether trying again may help."""

from __future__ import annotations

from typing import Any

from app.executions.model import Failure
from app.masking import mask
from app.models.base import ModelError, Stopped

MAX_MESSAGE_BYTES = 4096
MAX_NAME_CHARACTERS = 200


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
        self.failure, self.retryable, self.retry_after_seconds = failure, retryable, retry_after_seconds

    @classmethod
    def from_error(cls, error: BaseException, details: dict[str, Any]) -> RunFailed:
        """Whatever a flow raised. A failure that is one already stays as it is.

        `Stopped` is a failure too: whoever knows that the run was asked to stop does not come here.
        """
        if isinstance(error, RunFailed):
            return error
        if isinstance(error, Stopped):
            error = FlowError("The flow stopped without being asked to.")
        wait = error.retry_after_seconds if isinstance(error, ModelError) else None
        return cls(failure_from(error, details), is_retryable(error), wait)


def is_retryable(error: BaseException) -> bool:
    if isinstance(error, ModelError):
        return error.transient
    return isinstance(error, Exception) and not isinstance(error, HOPELESS)


def failure_from(error: BaseException, details: dict[str, Any]) -> Failure:
    """The exception's name and message, secrets masked, at most 4 KiB; never a stack trace."""
    name = type(error).__name__[:MAX_NAME_CHARACTERS]
    try:
        text = f"The flow called sys.exit({error.code!r})." if isinstance(error, SystemExit) else str(error) or name
    except BaseException:
        text = f"{name}, whose message can not be read."
    masked = mask(text).encode(errors="replace")[:MAX_MESSAGE_BYTES]
    return Failure(name, masked.decode(errors="ignore"), details)
