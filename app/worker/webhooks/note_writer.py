"""Stores how tries ended, many together, and again until they are stored. `deliverer` runs it."""

from __future__ import annotations

import asyncio

import structlog

from app.domain.errors import StoreRefused, StoreUnavailable
from app.store.delivery_queue import DeliveryQueue, Note
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog

NOTES_TOGETHER = 100
"""Notes that one call stores. A note may hold 1 KB of the receiver's answer."""

log = structlog.get_logger(__name__)


class NoteWriter:
    """Belongs to one event loop. `run` works until it is cancelled."""

    def __init__(self, queue: DeliveryQueue, outage: OutageLog):
        self._queue, self._outage = queue, outage
        self._waiting: list[tuple[Note, asyncio.Future[None]]] = []
        self._noted = asyncio.Event()

    async def write(self, note: Note) -> None:
        """Returns when the note is stored, however long that takes."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((note, done))
        self._noted.set()
        await done

    async def run(self) -> None:
        while True:
            if not self._waiting:
                self._noted.clear()
                await self._noted.wait()
            sent = self._waiting[:NOTES_TOGETHER]
            words = await self._try([note for note, _ in sent])
            if words is None:
                await asyncio.sleep(RETRY_STORE_SECONDS)
                continue
            del self._waiting[: len(sent)]
            for (note, done), word in zip(sent, words, strict=True):
                _log(note, word)
                if not done.done():
                    done.set_result(None)

    async def _try(self, notes: list[Note]) -> list[str] | None:
        """The store's word for each; None if the store is away."""
        try:
            words = await self._queue.note(notes)
        except StoreRefused:
            # Nobody knows which of them is to blame. Their leases end, and they are sent again.
            log.exception("tries_not_noted")
            words = ["refused"] * len(notes)
        except StoreUnavailable as error:
            self._outage.refused("note", error)
            return None
        self._outage.done("note")
        return words


def _log(note: Note, word: str) -> None:
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
