"""Makes polling cheap: an ETag for the version of an execution, 304, and when to ask again.

`app.api.executions` calls it for the status of an execution.
"""

from __future__ import annotations

import time
from datetime import datetime

from flask import Request, Response

from app.api.application import Answer
from app.domain.execution import Execution, Glance

MOST_SECONDS = 30
"""The longest time until the next poll that an answer asks for."""

PART_OF_AGE = 10
"""A client may hear of the end late by the tenth of the time that it has taken already."""

ETAG = {
    "description": "The `version` of the execution.",
    "required": True,
    "schema": {"type": "string"},
}
_RETRY_AFTER = {
    "description": "If it has not ended: seconds until the next poll, which grow with its age.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_SECONDS},
}
HEADERS = {"ETag": ETAG, "Retry-After": _RETRY_AFTER}
"""The headers of a status, for its description."""


def headers(found: Execution | Glance, waited: float = 0) -> dict[str, str]:
    """The headers of a status. A request that has `waited` may be repeated sooner."""
    ended = found.ended if isinstance(found, Glance) else found.status.ended
    again = {} if ended else {"Retry-After": str(seconds_until_next(found.created_at, waited))}
    return {"ETag": _tag(found.version), **again}


def seconds_until_next(created_at: datetime, waited: float = 0) -> int:
    """After how many seconds to poll again; it grows with the age of the execution."""
    age = time.time() - created_at.timestamp()
    return max(1, int(min(age / PART_OF_AGE, MOST_SECONDS) - waited))


def not_modified(request: Request, found: Glance, waited: float) -> Response | None:
    """The answer 304 if the client has this version already (RFC 9110, 13.1.2)."""
    known = request.if_none_match
    if not (known.star_tag or known.contains_weak(_tag(found.version).strip('"'))):
        return None
    return Answer(status=304, headers=headers(found, waited))


def _tag(version: int) -> str:
    return f'"v{version}"'
