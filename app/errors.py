"""The few errors that cross rooms. What an HTTP answer looks like is decided in `app.api`, not here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with one field of a request.

    `field` is in dotted form (`config.max_workers`, `inputs.text`), `""` where the body as a whole is
    wrong; `code` is snake_case and stable; `message` is one sentence for a person.
    """

    field: str
    message: str
    code: str


class ServiceError(Exception):
    """The base of what this service raises on purpose; `str(error)` is one clear sentence."""


class ConfigurationError(ServiceError):
    """A setting, an agent or a pipeline is wrong: the process must not start. Names where and why."""


class InvalidRequest(ServiceError):
    """The request does not fit; `errors` has one entry for each field."""

    def __init__(self, errors: Sequence[FieldError], detail: str = "The request is not valid."):
        super().__init__(detail)
        self.errors = tuple(errors)


class NotFound(ServiceError):
    """No such execution, or no such target."""

    @classmethod
    def of_execution(cls, execution_id: str) -> NotFound:
        return cls(f"There is no execution with the id {execution_id}.")


class AlreadyEnded(ServiceError):
    """A cancel came after the end; `status` is the final status (`completed` or `failed`)."""

    def __init__(self, execution_id: str, status: str):
        super().__init__(f"Execution {execution_id} is already {status}, so it can not be cancelled.")
        self.status = status


class NotRetryable(ServiceError):
    """A retry of an execution that neither failed nor was cancelled; `status` is its status."""

    def __init__(self, execution_id: str, status: str):
        super().__init__(f"Execution {execution_id} is {status}; only a failed or cancelled one can be retried.")
        self.status = status


class KeyReused(ServiceError):
    """A start with an idempotency key that was used before, for a start that asked for something else."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used before, with another body.")


class TooManyUnfinished(ServiceError):
    """The tenant has as many pending and running executions as it may have: `allowed`."""

    def __init__(self, allowed: int, retry_after_seconds: int = 5):
        super().__init__(f"There are {allowed} pending and running executions already, which is the limit.")
        self.allowed, self.retry_after_seconds = allowed, retry_after_seconds


class TooMuchRetried(ServiceError):
    """Retries of the tenant have copied as many bytes as they may."""

    def __init__(self, allowed_bytes: int, retry_after_seconds: int = 60):
        super().__init__(
            f"Retries have copied inputs and step outputs of {allowed_bytes} bytes that are still stored, which is the "
            'limit. A retry with "from": "start" copies no outputs; older retries make room when they leave the store.'
        )
        self.retry_after_seconds = retry_after_seconds


class QueueFull(ServiceError):
    """As many executions wait as may wait, or they have waited for too long, whoever started them."""

    def __init__(self, retry_after_seconds: int = 10):
        super().__init__("Too much is waiting to be run: nothing new can be started for now.")
        self.retry_after_seconds = retry_after_seconds


class TooManyLarge(ServiceError):
    """As many large executions are on their way to clients as one process may hold."""

    def __init__(self, retry_after_seconds: int = 5):
        super().__init__("Too many large outputs are being sent right now. Try again later.")
        self.retry_after_seconds = retry_after_seconds


class StoreUnavailable(ServiceError):
    """The store can not be reached, or refuses to work for now: try again after `retry_after_seconds`."""

    code = "store_unavailable"

    def __init__(self, detail: str = "The store can not be reached.", retry_after_seconds: int = 2):
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class StoreRefused(StoreUnavailable):
    """The store answered with a refusal that nobody thought of: somebody else's data under our keys, say, or a bug."""

    def __init__(self, detail: str = "The store refuses what is asked of it."):
        super().__init__(detail)


class StoreFull(StoreUnavailable):
    """The store has no memory or disk left for new executions; reading and cancelling still work."""

    code = "store_full"

    def __init__(self, detail: str = "The store is full: nothing new can be started.", retry_after_seconds: int = 10):
        super().__init__(detail, retry_after_seconds)
