"""Decides, as a pure function, what is noted when a try of a delivery is over."""

from __future__ import annotations

import random
from collections.abc import Sequence

from app.domain.delivery import Try
from app.settings import DAY
from app.store.delivery_queue import Note, Taken

LONGEST_RETRY_AFTER_SECONDS = float(DAY)
"""A receiver that asks for a longer wait in `Retry-After` gets this one."""

MOST_JITTER = 0.2
"""Pauses grow by up to this share, at random: deliveries that failed together come back apart."""


def note_of(taken: Taken, tried: Try, pauses_seconds: Sequence[float]) -> Note:
    """What becomes of a delivery after this try. It has one try more than there are pauses."""
    if tried.accepted:
        return Note(taken, "delivered", tried=tried)
    if tried.gone:
        return Note(taken, "gone", tried=tried)
    if taken.tries >= len(pauses_seconds):
        return Note(taken, "failed", tried=tried)
    pause = pauses_seconds[taken.tries] * random.uniform(1, 1 + MOST_JITTER)  # noqa: S311  no secret
    # The later of the two: a receiver that always asks for a second would soon have had all tries.
    asked = min(tried.retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS)
    return Note(taken, "again", max(pause, asked), tried)
