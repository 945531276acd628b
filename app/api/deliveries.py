"""The endpoints for webhook deliveries: what was sent for an execution, and to send it again."""

from __future__ import annotations

import json
from typing import Any

from flask import Response

from app.api import examples
from app.api.access import needs, tenant
from app.api.answer_schemas import DeliveriesSchema, RedeliveredSchema
from app.api.blueprint import ApiBlueprint, Success
from app.api.parsing import Body, Query
from app.api.schemas import DeliveriesQuerySchema, RedeliverSchema
from app.api.views import checked_id, json_answer, service
from app.domain.key import Scope
from app.services import deliveries
from app.services import delivery_serializers as serializers

blueprint = ApiBlueprint(
    "deliveries",
    __name__,
    url_prefix="/api/v1",
    description="See which webhooks were sent for an execution, and send one again.",
)


@blueprint.operation(
    "GET",
    "/executions/<execution_id>/deliveries",
    Success(200, DeliveriesSchema, examples.DELIVERIES),
    reads=(Query(DeliveriesQuerySchema()),),
    problems=("not_found",),
)
@needs(Scope.READ)
def list_deliveries(query: dict[str, Any], execution_id: str) -> Response:
    """List an execution's webhook deliveries

    Each delivery is one event that is sent to the `callback_url`, with its last tries. An answer
    has at most 100 deliveries; `after` continues behind the last one of these.
    """
    page = deliveries.read(service(), checked_id(execution_id), tenant(), query["after"])
    return json_answer(json.dumps(serializers.deliveries(execution_id, page)))


@blueprint.operation(
    "POST",
    "/executions/<execution_id>/deliveries/<number>/redeliver",
    Success(202, RedeliveredSchema, examples.REDELIVERED),
    reads=(Body(RedeliverSchema(), optional=True, examples=examples.REDELIVERS),),
    problems=("invalid_json", "not_found", "body_too_large", "unsupported_media_type"),
)
@needs(Scope.START)
def redeliver(_: dict[str, Any], execution_id: str, number: str) -> Response:
    """Send a webhook again

    Sends the event again at once, whether or not it was delivered, with the same `webhook-id`. If
    it fails, it has all its tries again. A delivery that is being sent stays as it is.
    """
    status = deliveries.redeliver(service(), checked_id(execution_id), tenant(), number)
    body = {"execution_id": execution_id, "number": int(number), "status": status}
    return json_answer(json.dumps(body), 202)
