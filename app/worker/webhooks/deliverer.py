"""Sends webhooks: takes deliveries from the queue, tries many at once, and notes how they went.

`main` runs one `Deliverer` beside the workers that run flows, in the same event loop. A try that
waits for its receiver costs nothing but a place. The body is made when it is sent, from the
execution's record at that moment.

A delivery is sent at least once. If the worker dies before it has noted an answer, or the store is
away for too long, the lease ends, and the delivery is sent again with the same id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Protocol

import structlog

from app.domain.delivery import Try
from app.domain.errors import StoreRefused, StoreUnavailable
from app.services import serializers
from app.setting_checks import pauses_of
from app.settings import Settings
from app.store.delivery_queue import (
    LEASE_SECONDS,
    QUEUE,
    READ_TOGETHER,
    DeliveryQueue,
    Found,
    Note,
    Taken,
)
from app.store.registration import Registration
from app.worker.loops import at_most, for_life, register, unless
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog
from app.worker.webhooks.batches import Batches
from app.worker.webhooks.receivers import MOST_HELD, Receivers, host_of
from app.worker.webhooks.schedule import log_note, note_of

TAKE_LIMIT = 32
"""Deliveries that one call takes: enough to make round trips cheap, and few enough to leave work
for other workers, and time for the runs of this one.
"""

NOTES_TOGETHER = 100
"""Notes that one call stores. A note may hold 1 KB of the receiver's answer."""

REFUSED_SECONDS = 10.0
"""The pause before a delivery whose execution could not be read is tried again."""

STOP_SECONDS = 4.0
"""How long the last notes may take at a shutdown."""

log = structlog.get_logger(__name__)


class Sends(Protocol):
    """What makes the requests; see `app.worker.webhooks.sender`."""

    async def send(self, url: str, id: str, body: bytes, at: datetime) -> Try: ...

    async def close(self) -> None: ...


class Deliverer:
    """The worker of the queue `webhooks`. Made in its event loop."""

    def __init__(self, settings: Settings, registration: Registration, sender: Sends):
        self.name = registration.name
        self._registration = registration
        self._lease_seconds = settings.lease
        self._places = settings.webhook_concurrency
        self._pauses_seconds = pauses_of(settings.webhook_pauses)
        self._sender = sender
        self._queue = DeliveryQueue(settings, self.name)
        self._receivers = Receivers(self._places)
        self._outage = OutageLog(queue=QUEUE)
        self._read = Batches("read", self._queue.read, READ_TOGETHER, self._outage)
        self._note = Batches("note", self._queue.note, NOTES_TOGETHER, self._outage)
        self._stopping = asyncio.Event()
        self._tries: set[asyncio.Task[None]] = set()
        self._at_work: set[asyncio.Task[Note]] = set()
        self._place_free = asyncio.Event()
        self._beat: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Works until `request_shutdown`. Then gives back what has no answer yet, and returns."""
        await register(self._registration, self._outage, self._stopping)
        loops = (self._read.run, self._note.run, self._beat_loop)
        others = [asyncio.ensure_future(for_life(loop)) for loop in loops]
        try:
            await for_life(self._take_loop)
            for work in self._at_work:
                work.cancel()
            if self._tries:
                await at_most(STOP_SECONDS, asyncio.wait(self._tries))
        finally:
            for other in others:
                other.cancel()
            await self._sender.close()
            # A beat that the store takes after the worker has left would list the worker again.
            await asyncio.gather(*([self._beat] if self._beat else []), return_exceptions=True)
            await self._unregister()
            await self._queue.close()

    def request_shutdown(self) -> None:
        """Starts the shutdown. May be called repeatedly."""
        self._stopping.set()

    async def _take_loop(self) -> None:
        """Fills free places."""
        while not self._stopping.is_set():
            free = self._places - self._used
            if free <= 0 or self._receivers.held > self._places * MOST_HELD:
                self._place_free.clear()
                await unless(self._stopping, self._place_free.wait())
                continue
            try:
                taken = await self._queue.take(min(free, TAKE_LIMIT))
                self._outage.done("take")
                if not taken:
                    await unless(self._stopping, self._queue.wait_for_work())
            except StoreUnavailable as error:
                if isinstance(error, StoreRefused):
                    log.exception("deliveries_not_taken")
                else:
                    self._outage.refused("take", error)
                await unless(self._stopping, asyncio.sleep(RETRY_STORE_SECONDS))
            else:
                for one in taken:
                    self._spawn(self._run(one))

    async def _run(self, taken: Taken) -> None:
        """Takes a delivery through one try, and notes how that ended."""
        work = asyncio.ensure_future(self._try(taken))
        self._at_work.add(work)
        if self._stopping.is_set():
            work.cancel()
        await asyncio.wait({work})
        self._at_work.discard(work)
        note = Note(taken, "returned") if work.cancelled() else work.result()
        try:
            log_note(note, await self._note(note))
        except StoreRefused:
            return  # its lease ends, and it is sent again

    async def _try(self, taken: Taken) -> Note:
        """Sends it once, if its receiver has a place."""
        host, begun, answered = host_of(taken.url), time.monotonic(), True
        if pause_seconds := await self._receivers.enter(host):
            return Note(taken, "returned", pause_seconds)
        entered = time.monotonic()
        try:
            found = await self._read(taken)
            if found is None:
                gone = _not_sent(taken, "Its execution has left the store.")
                return Note(taken, "failed", tried=gone)
            if time.monotonic() - begun > LEASE_SECONDS / 2:
                return Note(taken, "returned")  # the store was away, and the lease is nearly over
            tried = await self._send(taken, found)
            answered = tried.code is not None
            return note_of(taken, tried, self._pauses_seconds)
        except StoreRefused:
            return Note(taken, "returned", REFUSED_SECONDS)
        finally:
            self._receivers.leave(host, time.monotonic() - entered, answered=answered)

    async def _send(self, taken: Taken, found: Found) -> Try:
        try:
            body = serializers.webhook(
                found.execution, taken.event, taken.event_at, with_outputs=not found.too_large
            )
            return await self._sender.send(taken.url, taken.id, body, taken.at)
        except Exception as error:  # an error of our own costs this try, but not the delivery
            log.exception("webhook_not_sent", delivery=taken.id)
            return _not_sent(taken, f"The webhook was not sent: {type(error).__name__}.")

    async def _beat_loop(self) -> None:
        """Records that this worker lives, for RQ's tools and for health checks."""
        while True:
            try:
                slots = f"{self._used}/{self._places}"
                self._beat = asyncio.ensure_future(self._queue.beat(self._registration, slots))
                await asyncio.shield(self._beat)
                self._outage.done("beat")
                await asyncio.sleep(self._lease_seconds / 3)
            except StoreUnavailable as error:
                self._outage.refused("beat", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)

    @property
    def _used(self) -> int:
        """The places in use."""
        return len(self._tries) - self._receivers.held

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tries.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tries.discard(task)
        self._place_free.set()
        if error := task.exception():
            log.error("webhook_broke", exc_info=error)  # its lease ends, and it is sent again

    async def _unregister(self) -> None:
        try:
            await self._queue.leave()
            await self._registration.end()
        except (StoreUnavailable, RuntimeError) as error:
            self._outage.refused("unregister", error)


def _not_sent(taken: Taken, error: str) -> Try:
    return Try(taken.at, None, error, 0.0)
