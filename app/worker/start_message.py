"""Builds the `start` message, which gives a child process an attempt to run. Called by `attempt`.

`child_run` reads it; the fields of the head are listed in `protocol`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.worker.claim import Claim
from app.worker.protocol import encode, join

MANY_STEPS = 1000
"""Encoding a message with more saved steps takes longer than a millisecond or two."""

SavedSteps = tuple[dict[str, bytes], dict[str, bytes]]
"""What earlier attempts stored: the records of steps, and their outputs. See `app.store.steps`."""


@dataclass(frozen=True, slots=True)
class StartMessage:
    """The parts of a `start` message. `names` are the fields of every log line of the run."""

    claim: Claim
    wire_key: str
    names: Mapping[str, Any]
    traceparent: str | None
    saved: SavedSteps
    listened: bool = False

    @property
    def is_large(self) -> bool:
        """Whether encoding it would hold up the event loop for long."""
        steps, values = self.saved
        return len(steps) + len(values) > MANY_STEPS

    async def encoded_beside_loop(self) -> bytes:
        """Returns what `encoded` does, without holding up the event loop."""
        try:
            return await asyncio.to_thread(self.encoded)
        except RuntimeError:
            # The machine has no room for another thread: a slow start is better than none.
            return self.encoded()

    def encoded(self) -> bytes:
        """Returns the message as it goes over the wire. May be called in any thread."""
        claim = self.claim
        head = {
            "kind": "start",
            "token": self.wire_key,
            "id": claim.id,
            "attempt": claim.number,
            "names": self.names,
            "traceparent": self.traceparent,
        }
        if self.listened:
            head["listened"] = True
        # The usual case: a first attempt has nothing to resume, and its data is the whole body.
        if not claim.used_before and not claim.resumes:
            return encode(head, claim.data)
        steps, values = self.saved
        lengths, body = join([claim.data, *steps.values(), *values.values()])
        head |= {
            "usage": claim.used_before,
            "definition_hash": claim.definition_hash,
            "steps": list(steps),
            "values": list(values),
            "lengths": lengths,
        }
        return encode(head, body)
