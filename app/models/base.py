"""What a model provider is, and the five ways in which a model call can fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer with what the server reported; tokens are None where it reported none."""

    text: str
    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    retries: int = 0
    """How often the call was repeated before this answer came."""


class ModelError(Exception):
    """A model call failed, after so many `retries`. `retry_after_seconds` is the provider's own wish, if any."""

    transient = False
    retries = 0

    def __init__(self, message: str, retry_after_seconds: float | None = None):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


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
        stop: Stop | None = None,
        **options: Any,
    ) -> Completion:
        """Asks the model and waits. `model=None` is the service's own (OPENAI_MODEL_NAME).

        `options` go to the chat completions call as they are (`temperature`, `max_tokens`, ...).
        Raises a `ModelError`; raises `Stopped` at once, its connection closed, when `stop` is requested.
        """
        ...
