"""What is left to a caller of what he may have, and the headers that say so. Nothing is counted
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Request, Response, g


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left to a caller of what he may have, as draft-ietf-httpapi-ratelimit-headers says
    it.

    `window_seconds` is None for what is not counted over time: executions that are there at once.
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
    """Has the answer to this request tell of the quota."""
    g.setdefault("quotas", []).append(quota)


def note_unfinished(allowed: int, unfinished: int | None) -> None:
    """The same for the tenant's pending and running executions, where they are limited."""
    if unfinished is not None:
        note(Quota("unfinished", allowed, max(0, allowed - unfinished)))


def tell(_: Request, context: Any, response: Response) -> None:
    """Writes what was noted into the answer's headers."""
    noted: list[Quota] = context.get("quotas", [])
    if noted:
        response.headers["RateLimit-Policy"] = ", ".join(each.policy for each in noted)
        response.headers["RateLimit"] = ", ".join(each.state for each in noted)
