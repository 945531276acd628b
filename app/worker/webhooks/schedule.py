"""Decides what is noted when a try of a delivery is over, and logs it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import structlog

from app.domain.delivery import Try
from app.settings import DAY
from app.store.delivery_queue import Note, Taken

LONGEST_RETRY_AFTER_SECONDS = float(DAY)
"""A receiver that asks for a longer wait in `Retry-After` gets this one."""

MOST_JITTER = 0.2
"""Pauses grow by up to this share, at random: deliveries that failed together come back apart."""

log = structlog.get_logger(__name__)


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


def log_note(note: Note, word: str) -> None:
    """Logs the end of a try. `word` is the store's answer to the note."""
    tried = note.tried
    if tried is None:
        return
    event = {"delivered": "webhook_delivered", "again": "webhook_postponed"}
    write = log.info if note.how in event else log.warning
    write(
        event.get(note.how, "webhook_failed"),
        execution_id=note.taken.execution_id,
        delivery=note.taken.id,
        event_type=note.taken.event,
        code=tried.code,
        error=tried.error,
        seconds=round(tried.seconds, 3),
        **({"next_try_in_seconds": round(note.delay_seconds, 1)} if note.how == "again" else {}),
        **({"noted": word} if word != "ok" else {}),
    )
