"""Starts executions for forms, as the API's own start does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import g

from app.api.access import tenant
from app.api.views import service
from app.domain.execution import Started, TargetType
from app.services.starts import StartCommand


def start(
    type: TargetType,
    target_id: str,
    inputs: dict[str, Any],
    config: dict[str, Any] | None = None,
    tags: Iterable[str] = (),
) -> Started:
    """Starts an execution for the caller. Raises what `ExecutionService.start` raises."""
    return service().start(
        StartCommand(
            type=type,
            target_id=target_id,
            inputs=inputs,
            config=config or {},
            tenant=tenant(),
            request_id=g.request_id,
            traceparent=g.traceparent,
            sees_targets=True,
            tags=tuple(dict.fromkeys(tags)),
        )
    )


def execution_url(execution_id: str) -> str:
    """The page of an execution."""
    return f"/ui/executions/{execution_id}"
