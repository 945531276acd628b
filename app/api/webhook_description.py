"""Describes the requests that webhooks are, in the description at /openapi.json.

`app.api.build` calls `describe`. `app.worker.webhooks` sends them, and docs/events.md says more.
"""

from __future__ import annotations

from typing import Any

from apispec import APISpec

from app.api import examples
from app.api.answer_schemas import WebhookSchema
from app.domain.execution import CALLBACK_EVENTS

_HEADERS = {
    "webhook-id": "Names the delivery. It is the same for all tries: use it to recognize repeats.",
    "webhook-timestamp": "When this try was made, in seconds since 1970.",
    "webhook-signature": "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; one for "
    "each secret, separated by spaces.",
}


def describe(spec: APISpec) -> None:
    """Adds one webhook for each type of event."""
    spec.components.schema("Webhook", schema=WebhookSchema())
    spec.options["webhooks"] = {
        f"execution.{type}": {"post": _operation(f"execution.{type}")} for type in CALLBACK_EVENTS
    }


def _operation(type: str) -> dict[str, Any]:
    return {
        "summary": f"Sent to `callback_url`, if `callback_events` has `{type}`",
        "description": "Verify the signature, then answer any 2xx within 15 seconds. Otherwise it "
        "is sent again, up to ten times. 410 stops all webhooks of the execution.",
        "tags": ["deliveries"],
        "security": [],
        "parameters": [
            {
                "in": "header",
                "name": name,
                "description": description,
                "required": True,
                "schema": {"type": "string"},
            }
            for name, description in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Webhook"},
                    **({"example": examples.WEBHOOK} if examples.WEBHOOK["type"] == type else {}),
                }
            },
        },
        "responses": {"2XX": {"description": "Accepted."}, "410": {"description": "No more."}},
    }
