"""Defines the errors that the whole service shares; each message is one clear sentence.

The store, the catalog and the services raise them. `app.api.problems` turns them into HTTP answers,
and the commands print them, so a message may reach any user: it must hold no secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One problem with one field of a request.

    `field` is in dotted form (`config.max_workers`, `inputs.text`), or `""` if the body as a whole
    is wrong. `code` is in snake_case and never changes. `message` is one sentence for a person.
    """

    field: str
    message: str
    code: str


class ServiceError(Exception):
    """The base of all errors that this service raises on purpose."""


class ConfigurationError(ServiceError):
    """A setting, an agent or a pipeline is wrong, so the process must not start."""


class InvalidRequest(ServiceError):
    """The request is not valid; `errors` has one entry for each problem."""

    def __init__(self, errors: Sequence[FieldError], detail: str = "The request is not valid."):
        super().__init__(detail)
        self.errors = tuple(errors)


class NotFound(ServiceError):
    """There is no such execution or no such target."""

    @classmethod
    def of_execution(cls, execution_id: str) -> NotFound:
        return cls(f"There is no execution with the id {execution_id}.")


class AlreadyEnded(ServiceError):
    """A cancel came after the end. `status` is the final status: `completed` or `failed`."""

    def __init__(self, execution_id: str, status: str):
        super().__init__(
            f"Execution {execution_id} is already {status}, so it cannot be cancelled."
        )
        self.status = status


class NotRetryable(ServiceError):
    """A retry of an execution that neither failed nor was cancelled; `status` is its status."""

    def __init__(self, execution_id: str, status: str):
        super().__init__(
            f"Execution {execution_id} is {status}. "
            "Only a failed or cancelled execution can be retried."
        )
        self.status = status


class KeyReused(ServiceError):
    """A start repeats an idempotency key that belongs to a start with another body."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was already used with a different body. Send a new key."
        )


class TooManyUnfinished(ServiceError):
    """The tenant has reached its limit of pending and running executions, which is `allowed`."""

    def __init__(self, allowed: int, retry_after_seconds: int = 5):
        super().__init__(
            f"The limit of {allowed} pending and running executions is reached. "
            "Try again when some of them have ended."
        )
        self.allowed = allowed
        self.retry_after_seconds = retry_after_seconds


class TooMuchRetried(ServiceError):
    """The tenant's retries have reached their limit of copied bytes."""

    def __init__(self, allowed_bytes: int, retry_after_seconds: int = 60):
        super().__init__(
            f"The stored retries have reached the limit of {allowed_bytes} bytes of copied inputs "
            'and step outputs. Retry with "from": "start", which copies no outputs, or wait until '
            "older retries have left the store."
        )
        self.retry_after_seconds = retry_after_seconds


class QueueFull(ServiceError):
    """A queue is too long or too old, whoever started the executions in it."""

    def __init__(self, retry_after_seconds: int = 10):
        super().__init__("Too many executions are waiting to run. Try again later.")
        self.retry_after_seconds = retry_after_seconds


class TooManyLarge(ServiceError):
    """A web process is already sending as many large outputs as it may hold in memory."""

    def __init__(self, retry_after_seconds: int = 5):
        super().__init__("Too many large outputs are being sent right now. Try again later.")
        self.retry_after_seconds = retry_after_seconds


class StoreUnavailable(ServiceError):
    """The store cannot be reached or does not work now. Try again after `retry_after_seconds`."""

    code = "store_unavailable"

    def __init__(self, detail: str = "The store cannot be reached.", retry_after_seconds: int = 2):
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class StoreBusy(StoreUnavailable):
    """Too many calls of this process wait for the store, which may work well."""


class StoreRefused(StoreUnavailable):
    """The store answered with an error that no code expects: a key of the wrong type, or a bug."""

    def __init__(self, detail: str = "The store refused a command."):
        super().__init__(detail)


class StoreFull(StoreUnavailable):
    """The store has no memory or disk space left. Reading and cancelling still work."""

    code = "store_full"

    # Room appears when executions leave the store, which takes longer than a reconnection.
    def __init__(
        self,
        detail: str = "The store is full, so nothing new can be started. Try again later.",
        retry_after_seconds: int = 10,
    ):
        super().__init__(detail, retry_after_seconds)
