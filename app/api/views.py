"""Has what views and pages share: the use cases, the check of an id, and JSON answers."""

from __future__ import annotations

from typing import cast

from flask import Response, current_app

from app.api.application import Answer
from app.api.problems import Problem
from app.domain import identifiers
from app.services import serializers
from app.services.executions import ExecutionService
from app.store.large_texts import Held as Held  # the pages import it from here


def service() -> ExecutionService:
    """The use cases of executions."""
    return cast(ExecutionService, current_app.extensions["executions"])


def checked_id(execution_id: str) -> str:
    """Refuses what cannot be an id without asking the store, so no odd text gets into its keys."""
    if not identifiers.PATTERN.fullmatch(execution_id):
        raise Problem(404, "not_found", "There is no execution with this id.")
    return execution_id


def json_answer(
    body: str | bytes | serializers.Pieces, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    if isinstance(body, serializers.Pieces):
        headers = {"Content-Length": str(body.size), **(headers or {})}
    return Answer(body, status, headers, content_type="application/json")


def kept(held: Held, response: Response) -> Response:
    """Keeps large outputs in memory until the response has been sent."""
    if held.used:
        response.call_on_close(held.pop_all().close)
    return response
