"""Writes the headers `RateLimit-Policy` and `RateLimit`: a caller's limits, and what is left.

`app.api.limits` and the views note quotas during a request; `tell` runs after each view. Nothing is
counted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Request, Response, g


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit and what is left of it, as in draft-ietf-httpapi-ratelimit-headers.

    `window_seconds` is None for a limit that has no time window, such as the one on pending and
    running executions.
    """

    name: str
    allowed: int
    remaining: int
    window_seconds: int | None = None
    reset_seconds: int | None = None

    @property
    def policy(self) -> str:
        unit = (
            ';qu="concurrent-requests"'
            if self.window_seconds is None
            else f";w={self.window_seconds}"
        )
        return f'"{self.name}";q={self.allowed}{unit}'

    @property
    def state(self) -> str:
        reset = "" if self.reset_seconds is None else f";t={self.reset_seconds}"
        return f'"{self.name}";r={self.remaining}{reset}'


def note(quota: Quota) -> None:
    """Adds the quota to the headers of this request's answer."""
    g.setdefault("quotas", []).append(quota)


def note_unfinished(allowed: int, unfinished: int | None) -> None:
    """Notes the tenant's limit of pending and running executions; `unfinished` is None if the
    setting MAX_UNFINISHED gives no limit.
    """
    if unfinished is not None:
        note(Quota("unfinished", allowed, max(0, allowed - unfinished)))


def tell(_: Request, context: Any, response: Response) -> None:
    """Writes the noted quotas into the answer's headers."""
    noted: list[Quota] = context.get("quotas", [])
    if noted:
        response.headers["RateLimit-Policy"] = ", ".join(quota.policy for quota in noted)
        response.headers["RateLimit"] = ", ".join(quota.state for quota in noted)
