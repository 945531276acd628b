"""Reads the `Idempotency-Key` of a start or retry, and decides which bodies count as the same.

`app.api.executions` passes the result to the service, which finds the earlier execution.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from app.api.schemas import IDEMPOTENCY_KEY
from app.domain.execution import Idempotency
from app.process.aside import aside

REPLAYED = {"Idempotency-Replayed": "true"}


def of_request(
    body: dict[str, Any], headers: dict[str, str], body_bytes: int
) -> Idempotency | None:
    """Returns the key with a digest of the validated body; None if no key was sent.

    Two bodies are the same if they differ only in the order of fields, white space, escapes, or in
    an empty `config` that is left out. `60` and `60.0` are different.
    """
    # Fields without a value are not in `body`, so a field that a later version adds does not change
    # the digest of requests that were sent before.
    if IDEMPOTENCY_KEY not in headers:
        return None
    return Idempotency(headers[IDEMPOTENCY_KEY], aside(body_bytes, _digest, body))


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
