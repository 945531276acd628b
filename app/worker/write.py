"""Describes one write of an attempt, a checkpoint or its end.

`attempt` makes it, `writer` sends it. Values only. The script itself is in `app/store/scripts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.worker.claim import Claim
from app.worker.protocol import split


@dataclass(frozen=True, slots=True)
class Write:
    """One call of a script. `finish` and `release` end the attempt; a `checkpoint` does not.

    `usage` is called at the moment of sending, so that a repeated write stores the latest figures.
    """

    claim: Claim
    script: str
    arguments: tuple[Any, ...]
    usage: Callable[[], str]

    def call(self) -> list[Any]:
        """Returns the script's arguments."""
        return [self.claim.id, self.claim.token, self.usage(), *self.arguments]

    @property
    def size_bytes(self) -> int:
        """The approximate size on the wire. Numbers are not counted: they are short."""
        return sum(len(part) for part in self.arguments if isinstance(part, (bytes, str)))


def checkpoint(
    claim: Claim, head: Mapping[str, Any], body: bytes, usage: Callable[[], str]
) -> Write:
    """Builds the write of a child's `checkpoint` message. The body holds the steps' outputs.

    Raises `KeyError`, `TypeError` or `ValueError` if the message makes no sense.
    """
    values = dict(zip(head["values"], split(head["lengths"], body), strict=True))
    # The script takes one flat list, so the counts of its parts come first.
    counts = [len(head[name]) for name in ("records", "outcomes", "values", "dropped")]
    listed = [part for name in ("records", "outcomes") for row in head[name] for part in row]
    outputs = [part for pair in values.items() for part in pair]
    fixed = (head["number"], head["progress"], head["definition"])
    arguments = (*fixed, *counts, *listed, *outputs, *head["dropped"])
    return Write(claim, "checkpoint", arguments, usage)
