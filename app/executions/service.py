"""The use cases: start, get, list, cancel. Knows the catalog and the store; knows neither HTTP nor RQ."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.catalog.model import Catalog
from app.executions.model import Execution, Page, Status, TargetType
from app.settings import Settings

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class StartCommand:
    """A start as it was asked for, its shape already checked. `config` has only keys of the contract."""

    type: TargetType
    target_id: str
    inputs: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    expires_in_seconds: int | None = None
    tenant: str = DEFAULT_TENANT
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which executions, and which page of them. `page` from 1, `page_size` 1 to 100."""

    status: Status | None = None
    type: TargetType | None = None
    target_id: str | None = None
    page: int = 1
    page_size: int = 50
    descending: bool = True
    tenant: str = DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Started:
    """The receipt for an accepted start."""

    execution_id: str
    type: TargetType
    created_at: datetime


class ExecutionService:
    """Raises `StoreUnavailable` from every method when the store does not answer in time."""

    def __init__(self, store: Any, catalog: Catalog, settings: Settings):
        self._store, self._catalog, self._settings = store, catalog, settings

    def start(self, command: StartCommand) -> Started:
        """Stores and queues an execution in one step. Raises `NotFound` (target) and `InvalidRequest`."""
        raise NotImplementedError

    def get(self, execution_id: str, tenant: str = DEFAULT_TENANT) -> Execution:
        """One execution, in one round trip. Raises `NotFound`."""
        raise NotImplementedError

    def list(self, query: ListQuery) -> Page:
        """One page, in one round trip; its cost does not grow with the number of executions stored."""
        raise NotImplementedError

    def cancel(self, execution_id: str, tenant: str = DEFAULT_TENANT) -> Execution:
        """Cancels and waits up to 5 s for the end.

        The answer is `cancelled` only when that is true, else `running` with `phase` `cancelling`.
        Raises `NotFound`, and `AlreadyEnded` for a completed or failed one. Repeating is harmless.
        """
        raise NotImplementedError
