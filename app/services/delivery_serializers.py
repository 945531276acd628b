"""Writes what people see of webhook deliveries, as JSON: the bodies of `app.api.deliveries`."""

from __future__ import annotations

from typing import Any

from app.domain.delivery import Delivery, DeliveryPage, Try
from app.services.serializers import time


def deliveries(execution_id: str, page: DeliveryPage) -> dict[str, Any]:
    """Some deliveries of an execution. Without a callback, it has none."""
    body: dict[str, Any] = {"execution_id": execution_id}
    if page.callback:
        body["callback_url"] = page.callback.url
        body["callback_events"] = [f"execution.{type}" for type in page.callback.events]
    body["total"] = page.total
    body["deliveries"] = [_delivery(delivery) for delivery in page.deliveries]
    return body


def _delivery(delivery: Delivery) -> dict[str, Any]:
    body: dict[str, Any] = {
        "number": delivery.number,
        "webhook_id": delivery.id,
        "event": f"execution.{delivery.event}",
        "event_id": delivery.event_number,
        "status": delivery.status,
        "created_at": time(delivery.created_at),
    }
    if delivery.next_try_at:
        body["next_try_at"] = time(delivery.next_try_at)
    if delivery.ended_at:
        body["ended_at"] = time(delivery.ended_at)
    if delivery.error:
        body["error"] = delivery.error
    body["tries_made"] = delivery.tries_made
    body["tries"] = [_try(tried) for tried in delivery.tries]
    return body


def _try(tried: Try) -> dict[str, Any]:
    body: dict[str, Any] = {"at": time(tried.at), "seconds": tried.seconds}
    if tried.code is not None:
        body["code"] = tried.code
        body["answer"] = tried.answer
    if tried.error:
        body["error"] = tried.error
    return body
