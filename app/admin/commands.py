"""The commands, as methods that return plain values. They call the services that the API calls."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from app import catalog
from app.catalog.model import Catalog
from app.domain.errors import NotFound
from app.domain.execution import Execution, Status, TargetType
from app.domain.payload import readable
from app.services.executions import ExecutionService, RetryCommand
from app.settings import Settings
from app.store.executions import ExecutionStore, index_keys
from app.store.inspection import Inspection
from app.store.statistics import Statistics
from app.telemetry.masking import MASK, Mask, is_secret_name

LONGEST_TEXT = 2000
"""Longer texts are cut. The API has all of them."""


class Admin:
    """Every method raises a `ServiceError` if the store or the execution is not there."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._store = ExecutionStore.connect(settings)
        self._inspection = Inspection(settings)
        self._mask = Mask(settings.secrets)

    def status(self) -> dict[str, Any]:
        """Queues, workers and leases."""
        now = Statistics.connect(self._settings).read()
        queues = [
            {
                "queue": name,
                "waiting": state.length,
                "oldest_seconds": round(state.oldest_seconds, 1),
                "workers": state.workers,
                "slots": f"{state.used}/{state.slots}",
            }
            for name, state in now.queues.items()
        ]
        return {
            "queues": queues,
            "running": now.running,
            "waiting_for_their_next_attempt": now.delayed,
            "workers": [_rounded(asdict(worker)) for worker in self._inspection.workers()],
            "leases": [_rounded(asdict(lease)) for lease in self._inspection.leases()],
        }

    def execution(self, execution_id: str) -> dict[str, Any]:
        """Everything that the store holds of it. Secrets are masked, and long texts cut."""
        found = self._inspection.everything(execution_id)
        if not found:
            raise NotFound.of_execution(execution_id)
        return {name: self._plain(name, value) for name, value in found.items()}

    def list(
        self,
        tenant: str | None,
        status: Status | None,
        type: TargetType | None,
        target: str | None,
        limit: int,
    ) -> dict[str, Any]:
        """The newest executions, of one tenant or of all."""
        found: list[tuple[str, Execution]] = []
        total = 0
        for owner in [tenant] if tenant is not None else self._inspection.tenants():
            keys = index_keys(owner, status, type, target)
            page, count = self._store.page(owner, keys, 0, limit, True)
            found += [(owner, execution) for execution in page]
            total += count
        found.sort(key=lambda row: row[1].created_at, reverse=True)
        return {"total": total, "executions": [_row(*row) for row in found[:limit]]}

    def cancel(self, execution_id: str) -> dict[str, Any]:
        """Cancels it as the API does: it is `cancelled` only if it has ended."""
        tenant = self._owner(execution_id)
        # No target is needed to cancel, so a broken file of an agent cannot prevent it.
        nothing = Catalog({}, {})
        service = ExecutionService(self._store, nothing, self._settings)
        return _row(tenant, service.cancel(execution_id, tenant))

    def retry(self, execution_id: str) -> dict[str, Any]:
        """Starts it again as the API does, from the steps that have finished."""
        tenant = self._owner(execution_id)
        known = catalog.load(self._settings.agents_path, self._settings.pipelines_path)
        service = ExecutionService(self._store, known, self._settings)
        receipt = service.retry(RetryCommand(execution_id, tenant=tenant))
        return {
            "execution_id": receipt.execution_id,
            "retry_of": execution_id,
            "tenant": tenant,
            "status": "pending",
        }

    def _owner(self, execution_id: str) -> str:
        tenant = self._inspection.tenant_of(execution_id)
        if tenant is None:
            raise NotFound.of_execution(execution_id)
        return tenant

    def _plain(self, name: str, value: Any) -> Any:
        """A stored value as JSON can hold it. Packed texts are unpacked, and JSON is read."""
        if is_secret_name(name):
            return MASK
        if isinstance(value, bytes):
            text = (readable(value) or value).decode(errors="replace")
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = text
        if isinstance(value, str):
            shown = self._mask(value, LONGEST_TEXT)
            return f"{shown}… [cut]" if len(value) > LONGEST_TEXT else shown
        if isinstance(value, dict):
            return {key: self._plain(key, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._plain("", inner) for inner in value]
        if isinstance(value, float):
            return round(value, 1) if abs(value) != float("inf") else None
        return value


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()
    }


def _row(tenant: str, found: Execution) -> dict[str, Any]:
    row: dict[str, Any] = {
        "execution_id": found.id,
        "tenant": tenant,
        "status": found.status.value,
        "phase": found.phase.value if found.phase else None,
        "type": found.type.value,
        "target": found.target_id,
        "attempt": found.attempt,
        "created_at": found.created_at.isoformat(timespec="seconds"),
    }
    if found.failure:
        row["error"] = found.failure.type
    return row
