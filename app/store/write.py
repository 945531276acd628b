"""Describes one write of an attempt: a checkpoint, or its end.

`worker/attempt.py` makes it, `worker/writer.py` sends it. Values only. The scripts are in
`scripts/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Write:
    """One call of a script. `finish` and `release` end the attempt; a `checkpoint` does not.

    `id` and `token` name the attempt. `usage` is called at the moment of sending, so that a
    repeated write stores the latest figures. `events` are those that the child has reported (see
    `scripts/events.lua`), or `""`. They stay the same: of a checkpoint that is stored already, a
    repeat stores nothing, and so no further events either.
    """

    id: str
    token: str
    script: str
    arguments: tuple[Any, ...]
    usage: Callable[[], str]
    events: str = ""

    def call(self) -> list[Any]:
        """Returns the script's arguments."""
        return [self.id, self.token, self.usage(), self.events, *self.arguments]

    @property
    def size_bytes(self) -> int:
        """The approximate size on the wire. Numbers are not counted: they are short."""
        parts = (*self.arguments, self.events)
        return sum(len(part) for part in parts if isinstance(part, (bytes, str)))


def checkpoint(
    id: str,
    token: str,
    head: Mapping[str, Any],
    outputs: Sequence[bytes],
    usage: Callable[[], str],
    max_events: int,
    events: str = "",
) -> Write:
    """Builds the write of a child's `checkpoint` message, with the outputs of the steps it names.

    A row of `records` is a step, its record, `started`, `ended` or `""`, and optionally the event
    to tell: `"type",{data}` or `""`. `max_events` is how many events an execution keeps.
    Raises `KeyError`, `TypeError` or `ValueError` if the message makes no sense.
    """
    # The script takes one flat list, so the counts of its parts come first.
    counts = [len(head[name]) for name in ("records", "outcomes", "values", "dropped")]
    records = [part for row in head["records"] for part in (row if len(row) > 3 else [*row, ""])]
    outcomes = [part for row in head["outcomes"] for part in row]
    values = [part for pair in zip(head["values"], outputs, strict=True) for part in pair]
    fixed = (max_events, head["number"], head["progress"], head["definition_hash"])
    arguments = (*fixed, *counts, *records, *outcomes, *values, *head["dropped"])
    return Write(id, token, "checkpoint", arguments, usage, events)
