"""The commands, as methods that return plain values. They call the services that the API calls."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from app import catalog
from app.catalog.model import Catalog
from app.domain.errors import NotFound, StoreRefused, StoreUnavailable
from app.domain.execution import Execution, Status, TargetType
from app.domain.payload import readable, unpacks_beyond
from app.services.executions import ExecutionService, RetryCommand
from app.settings import Settings
from app.store.execution_lists import index_keys
from app.store.executions import ExecutionStore
from app.store.inspection import Inspection
from app.store.statistics import Statistics
from app.store.steps import read_failure
from app.telemetry.log_fields import CUT
from app.telemetry.masking import MASK, Mask, is_secret_name

LONGEST_TEXT = 2000
"""Longer texts are cut. The API has all of them."""

ENDED = (b"finished", b"failed", b"canceled")
"""RQ's words in the records of executions that have ended."""

MOST_LEVELS = 100
"""Deeper values are cut. Requests have fewer levels; other programs can write more."""

MOST_UNPACKED_BYTES = 1024 * 1024
"""A packed text that is longer than this is not unpacked."""


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
        found = {
            "queues": queues,
            "running": now.running,
            "waiting_for_their_next_attempt": now.delayed,
            "webhooks": _rounded(asdict(now.deliveries)),
            "workers": [_rounded(asdict(worker)) for worker in self._inspection.workers()],
            "leases": [_rounded(asdict(lease)) for lease in self._inspection.leases()],
        }
        return {**found, **self._wrong_keys()}

    def execution(self, execution_id: str) -> dict[str, Any]:
        """Everything that the store holds of it. Secrets are masked, and long texts cut."""
        found = self._inspection.everything(execution_id)
        wrong = self._wrong_keys()
        if not found and not wrong:
            raise NotFound.of_execution(execution_id)
        plain = {name: self._plain(name, value) for name, value in found.items()}
        return {**self._now(execution_id, found.get("record", {})), **plain, **wrong}

    def _now(self, execution_id: str, record: dict[str, Any]) -> dict[str, Any]:
        """What the API says of an execution that has not ended: its phase, and why it waits."""
        tenant = record.get("tenant")
        if not isinstance(tenant, bytes) or record.get("status") in ENDED:
            return {}
        found = None
        with suppress(StoreUnavailable):  # the rest can be shown without the scripts
            found = self._store.get(execution_id, tenant.decode(errors="replace"))
        if found is None:
            return {}
        now = {"status": found.status.value, "phase": found.phase and found.phase.value}
        if found.waiting_for:
            now["waiting_for"] = found.waiting_for.detail
        if found.last_heartbeat_at:
            now["last_heartbeat_at"] = found.last_heartbeat_at.isoformat(timespec="seconds")
        return {"now": now}

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
        unreadable: list[dict[str, Any]] = []
        total = 0
        for owner in [tenant] if tenant is not None else self._inspection.tenants():
            keys = index_keys(owner, status, type, target)
            try:
                page, count = self._store.lists.page(owner, keys, 0, limit, True)
            except StoreRefused as error:  # a list of this tenant has the wrong type
                if tenant is not None:
                    raise
                unreadable.append({"tenant": owner, "error": str(error.__cause__)})
                continue
            rows = [*found, *((owner, execution) for execution in page)]
            found = sorted(rows, key=lambda row: row[1].created_at, reverse=True)[:limit]
            total += count
        # A list's records have no errors, so these are read for the rows that are shown.
        errors = self._inspection.errors([it.id for _, it in found if it.failure])
        rows_shown = [_row(owner, it, errors.get(it.id)) for owner, it in found]
        shown: dict[str, Any] = {"total": total, "executions": rows_shown}
        return {**shown, "unreadable_tenants": unreadable} if unreadable else shown

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

    def _wrong_keys(self) -> dict[str, Any]:
        keys = [{"key": key} for key in sorted(self._inspection.wrong_keys)]
        return {"keys_of_wrong_type": keys} if keys else {}

    def _owner(self, execution_id: str) -> str:
        tenant = self._inspection.tenant_of(execution_id)
        if tenant is None:
            raise NotFound.of_execution(execution_id)
        return tenant

    def _plain(self, name: str, value: Any, levels: int = MOST_LEVELS) -> Any:
        """A stored value as JSON can hold it. Packed texts are unpacked, and JSON is read."""
        if is_secret_name(name):
            return MASK
        if isinstance(value, bytes):
            value = _read(value)
        if isinstance(value, str):
            shown = self._mask(value, LONGEST_TEXT)
            return f"{shown}{CUT}" if len(value) > LONGEST_TEXT else shown
        if isinstance(value, dict | list) and not levels:
            return CUT
        if isinstance(value, dict):
            return {key: self._plain(key, inner, levels - 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._plain("", inner, levels - 1) for inner in value]
        if isinstance(value, float):
            return round(value, 1) if abs(value) != float("inf") else None
        return value


def _read(stored: bytes) -> Any:
    if unpacks_beyond(stored, MOST_UNPACKED_BYTES):
        return f"({len(stored)} bytes, packed)"
    text = (readable(stored) or stored).decode(errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()
    }


def _row(tenant: str, found: Execution, error: bytes | None = None) -> dict[str, Any]:
    """A row of a table. `error` is the stored error, if the execution was read without it."""
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
        row["error"] = read_failure(error).type if error else found.failure.type
    return row
