"""`Idempotency-Key` on starts: what counts as the same request, and how a repeated answer says what
it is.
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
    """The key with a digest of the body as it was understood, None where no key was sent.

    The order of keys, white space, escapes, and a `config` that is left out or empty make no
    difference; `60` and `60.0` do. A field that is left out and has no default is not part of the
    digest, so fields that a later version adds do not turn a repeat into another request.
    """
    if IDEMPOTENCY_KEY not in headers:
        return None
    return Idempotency(headers[IDEMPOTENCY_KEY], aside(body_bytes, _digest, body))


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
