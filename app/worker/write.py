"""A call of a script that stores what an attempt did, or how it ended. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.worker.claim import Claim


@dataclass(frozen=True, slots=True)
class Write:
    """`finish` and `release` end the attempt; a `checkpoint` does not.

    `usage` is asked at the moment of the call, so that a write that is repeated stores the latest.
    """

    claim: Claim
    script: str
    arguments: tuple[Any, ...]
    usage: Callable[[], str]

    def call(self) -> list[Any]:
        """The script's arguments."""
        return [self.claim.id, self.claim.token, self.usage(), *self.arguments]

    @property
    def size_bytes(self) -> int:
        """About as much as it takes on the wire."""
        return sum(len(part) for part in self.arguments if isinstance(part, (bytes, str)))
