"""What a model provider is, what it answers, and the ways in which a model call can fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from app.models.waits import DEFAULT_LIMIT_SECONDS, bounded


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer with what the server reported; what it did not report is None.

    `text` is what the model said: its answer, or its refusal; empty if it only called tools.
    `finish_reason` is the server's word: `stop`, `length` (the text was cut off), `content_filter`
    (a part is missing), `tool_calls`, ... `tool_calls` are JSON as the server sent them, to be
    passed on in the next messages. `retries` is how often the call was repeated.
    """

    text: str
    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    retries: int = 0
    finish_reason: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


class ModelError(Exception):
    """A model call failed, after so many `retries`.

    `transient` is whether the same call may succeed later. `retry_after_seconds` is how long the
    server asked to wait, if it did: a finite number within MAX_RETRY_AFTER or None, also if a flow
    raises the error with a number of its own.
    """

    transient = False
    retries = 0

    longest_wait_seconds: ClassVar[float] = DEFAULT_LIMIT_SECONDS
    """MAX_RETRY_AFTER. The provider sets it: flows raise these errors, too, and know no settings."""

    def __init__(
        self,
        message: str,
        retry_after_seconds: float | None = None,
        *,
        transient: bool | None = None,
    ):
        super().__init__(message)
        self._retry_after_seconds = bounded(retry_after_seconds, self.longest_wait_seconds)
        if transient is not None:
            self.transient = transient

    @property
    def retry_after_seconds(self) -> float | None:
        return self._retry_after_seconds


class ModelTimeout(ModelError):
    """No answer within MODEL_TIMEOUT."""

    transient = True


class ModelRateLimited(ModelError):
    """429, also after the retries."""

    transient = True


class ModelAuthenticationError(ModelError):
    """401 or 403, or no key at all."""


class ModelUnavailable(ModelError):
    """Not reachable, or 5xx, also after the retries."""

    transient = True


class ModelRejected(ModelError):
    """Any other 4xx: the request itself is wrong (unknown model, too long, refused)."""


class ModelAnswerInvalid(ModelError):
    """The server answered with success, but not with an answer: HTML, nothing, no choices, ..."""

    transient = True


class Stop(Protocol):
    """Somebody may want the run to end (cancel, timeout). Safe to use from any thread."""

    @property
    def requested(self) -> bool: ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` once, at once where the stop was requested already; returns the un-subscribe."""
        ...


class Stopped(BaseException):
    """The run was asked to stop while it waited. Not an `Exception`, so that no flow swallows it."""


class ModelProvider(Protocol):
    """Where completions come from."""

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        stop_signal: Stop | None = None,
        **options: Any,
    ) -> Completion:
        """Asks the model and waits. `model=None` is the service's own (OPENAI_MODEL_NAME).

        `options` go to the chat completions call as they are (`temperature`, `max_tokens`, ...).
        Raises a `ModelError`; raises `Stopped` at once, its connection closed, when a stop is requested.
        """
        ...
