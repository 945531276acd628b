"""The interface of model providers: `ModelProvider`, its `Completion`, and the `ModelError`s.

The runtime knows only this module of the folder (and `waits.py`, `token_counts.py`). The provider
itself, `openai_provider.py`, is given to it when a child process starts; tests give it others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from app.providers.waits import DEFAULT_LIMIT_SECONDS, bounded


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer, and what its server reported about it: None if it reported nothing.

    `text` is the answer or the refusal; empty if the model only called tools. `finish_reason` is
    the server's word: `stop`, `length` (the text was cut off), `content_filter` (a part is
    missing), `tool_calls`, ... `tool_calls` are JSON as the server sent it, to be passed on in the
    next messages. `retries` is how often the call was repeated.
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
    """A model call failed, after `retries` repeats.

    `transient`: the same call may succeed later. `retry_after_seconds` is the wait that the server
    asked for: from 0 to MAX_RETRY_AFTER, or None. That holds too if a flow raises the error with a
    number of its own.
    """

    transient = False
    retries = 0

    longest_wait_seconds: ClassVar[float] = DEFAULT_LIMIT_SECONDS
    """MAX_RETRY_AFTER. Set on the class: flows raise these errors, too, and have no settings."""

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
    """401 or 403."""


class ModelNotConfigured(ModelAuthenticationError):
    """Neither OPENAI_API_KEY nor OPENAI_BASE_URL is set."""


class ModelUnavailable(ModelError):
    """The server is not reachable, or answers 5xx, also after the retries."""

    transient = True


class ModelRejected(ModelError):
    """Any other 4xx: the request itself is wrong (unknown model, too long, refused)."""


class ModelAnswerInvalid(ModelError):
    """The server answered with success, but without an answer: HTML, nothing, no choices, ..."""

    transient = True


def too_large(max_bytes: int) -> ModelAnswerInvalid:
    """The error of an answer with more bytes than are read."""
    return ModelAnswerInvalid(
        f"The model's answer is larger than {max_bytes} bytes. "
        "Ask for less, or raise MAX_RESULT_BYTES.",
        transient=False,
    )


class Stop(Protocol):
    """Says whether the run was asked to end (cancel, timeout). Thread-safe."""

    @property
    def requested(self) -> bool: ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` once: on the stop, or now if it was requested before.

        Returns a function that unsubscribes.
        """
        ...


class Stopped(BaseException):
    """The run was asked to stop. Not an `Exception`, so that no flow swallows it."""


OnText = Callable[[str, int], None]
"""Gets a piece of an answer's text, and the number of the repeat that it belongs to: 0 for the
first try of a call. What an earlier try has sent is then worth nothing.

It is called in the event loop of all model calls, so it must neither wait nor raise.
"""


class ModelProvider(Protocol):
    """Gets completions from a model. May be used from any thread."""

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        stop_signal: Stop | None = None,
        on_text: OnText | None = None,
        **options: Any,
    ) -> Completion:
        """Calls the model and waits. `model=None` is the service's own (OPENAI_MODEL_NAME).

        With `on_text`, the answer is taken as a stream, and its text is passed on as it comes. The
        result is the same.

        `options` go to the server unchanged (`temperature`, `max_tokens`, ...). Raises a
        `ModelError`, or `Stopped` as soon as a stop is requested; then the connection is closed.
        """
        ...
