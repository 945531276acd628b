"""Answers starts and retries: 202 with a receipt, or the final status if the caller waits for it.

`app.api.executions` calls it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from flask import Response

from app.api import examples, idempotency, polling, quotas, waiting
from app.api.access import identity, tenant
from app.api.answer_schemas import ExecutionSchema
from app.api.blueprint import Success
from app.api.schemas import PREFER
from app.api.views import json_answer, kept, service
from app.domain.errors import ServiceError
from app.domain.execution import Started
from app.domain.key import Scope
from app.services import serializers
from app.store.large_texts import Held

HEADERS = {
    "Location": {
        "description": "The `status_url`.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "Present if this is the answer to an earlier start with the same "
        "`Idempotency-Key`.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}
_ENDED_HEADERS = {
    **HEADERS,
    "ETag": polling.ETAG,
    "Preference-Applied": {
        "description": "For how many seconds the answer would have waited.",
        "required": True,
        "schema": {"type": "string"},
    },
}

ENDED = Success(
    200,
    ExecutionSchema,
    examples=examples.ENDED,
    headers=_ENDED_HEADERS,
    description="With `Prefer: wait=N`, if it has ended in time.",
)


def answer(receipt: Started, body: dict[str, Any], headers: dict[str, str]) -> Response:
    """The answer to a start: the final status if the caller prefers to wait for it and it comes in
    time, otherwise the receipt.
    """
    # The final status has the outputs, so a key that must not read them does not wait.
    if PREFER in headers and Scope.READ in identity().scopes:
        preferred = waiting.preferred_seconds(headers[PREFER])
        seconds = min(preferred, int(service().settings.max_wait))
        if seconds:
            waiting.forget_body(body)
            # It is accepted, whatever happens now. So an error is no reason to say otherwise.
            with suppress(ServiceError):
                if ended := _ended(receipt, seconds):
                    return ended
    return accepted(receipt)


def _ended(receipt: Started, seconds: int) -> Response | None:
    """The final status, if the execution ends in time."""
    owner, id, wait = tenant(), receipt.execution_id, service().wait
    waiting.timed(lambda caller: wait(id, owner, seconds, caller))
    if not service().glance(id, owner).ended:
        return None
    with Held() as held:
        execution = service().get(id, owner, held=held)
        headers = {**_receipt_headers(receipt), **polling.headers(execution)}
        headers["Preference-Applied"] = f"wait={seconds}"
        return kept(held, json_answer(serializers.execution(execution), headers=headers))


def accepted(receipt: Started) -> Response:
    return json_answer(json.dumps(serializers.started(receipt)), 202, _receipt_headers(receipt))


def _receipt_headers(receipt: Started) -> dict[str, str]:
    quotas.note_unfinished(service().settings.max_unfinished, receipt.unfinished)
    replayed = idempotency.REPLAYED if receipt.replayed else {}
    return {"Location": serializers.status_url(receipt.execution_id), **replayed}
