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
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any, Protocol

import structlog

from app.domain.delivery import Try
from app.domain.errors import StoreRefused, StoreUnavailable
from app.services import serializers
from app.setting_checks import pauses_of
from app.settings import Settings
from app.store.delivery_queue import QUEUE, DeliveryQueue, Found, Note, Taken
from app.store.registration import Registration
from app.worker.loops import at_most, for_life, unless
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog
from app.worker.webhooks.note_writer import NoteWriter
from app.worker.webhooks.receivers import Receivers, host_of
from app.worker.webhooks.schedule import note_of

TAKE_LIMIT = 64
"""Deliveries that one call takes: enough to make round trips cheap, and few enough to leave work
for other workers.
"""

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
        self._writer = NoteWriter(self._queue, self._outage)
        self._stopping = asyncio.Event()
        self._tries: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[Try]] = set()
        self._place_free = asyncio.Event()

    async def run(self) -> None:
        """Works until `request_shutdown`. Then gives back what has no answer yet, and returns."""
        await self._register()
        loops = (self._writer.run, self._beat_loop)
        others = [asyncio.ensure_future(for_life(loop)) for loop in loops]
        try:
            await for_life(self._take_loop)
            for sending in self._sending:
                sending.cancel()
            if self._tries:
                await at_most(STOP_SECONDS, asyncio.wait(self._tries))
        finally:
            for other in others:
                other.cancel()
            await self._sender.close()
            await self._unregister()
            await self._queue.close()

    def request_shutdown(self) -> None:
        """Starts the shutdown. May be called repeatedly."""
        self._stopping.set()

    async def _take_loop(self) -> None:
        """Fills free places."""
        while not self._stopping.is_set():
            free = self._places - len(self._tries)
            if free <= 0:
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
                await self._begin(taken)

    async def _begin(self, taken: Sequence[Taken]) -> None:
        """Starts tries. One whose receiver has no place is set aside for a while."""
        admitted = []
        for one in taken:
            pause_seconds = self._receivers.enter(host_of(one.url))
            if pause_seconds:
                self._spawn(self._writer.write(Note(one, "returned", pause_seconds)))
            else:
                admitted.append(one)
        try:
            found = await self._queue.read(admitted)
        except StoreUnavailable as error:
            self._outage.refused("read", error)
            for one in admitted:
                self._receivers.leave(host_of(one.url), 0.0, answered=True)
                self._spawn(self._writer.write(Note(one, "returned", RETRY_STORE_SECONDS)))
            return
        self._outage.done("read")
        for one, execution in zip(admitted, found, strict=True):
            self._spawn(self._try(one, execution))

    async def _try(self, taken: Taken, found: Found | None) -> None:
        host, begun = host_of(taken.url), time.monotonic()
        sending = asyncio.ensure_future(self._send(taken, found))
        self._sending.add(sending)
        if self._stopping.is_set():
            sending.cancel()
        await asyncio.wait({sending})
        self._sending.discard(sending)
        tried = None if sending.cancelled() else sending.result()
        answered = tried is None or tried.code is not None
        self._receivers.leave(host, time.monotonic() - begun, answered)
        await self._writer.write(self._note(taken, found, tried))

    def _note(self, taken: Taken, found: Found | None, tried: Try | None) -> Note:
        if tried is None:
            return Note(taken, "returned")  # the worker stops
        if found is None:
            return Note(taken, "failed", tried=tried)
        return note_of(taken, tried, self._pauses_seconds)

    async def _send(self, taken: Taken, found: Found | None) -> Try:
        if found is None:
            return Try(taken.at, None, "The execution has left the store.", 0.0)
        try:
            body = serializers.webhook(
                found.execution, taken.event, taken.event_at, with_outputs=not found.too_large
            )
            return await self._sender.send(taken.url, taken.id, body, taken.at)
        except Exception as error:  # an error of our own costs this try, but not the delivery
            log.exception("webhook_not_sent", delivery=taken.id)
            return Try(taken.at, None, f"The webhook was not sent: {type(error).__name__}.", 0.0)

    async def _beat_loop(self) -> None:
        """Records that this worker lives, for RQ's tools and for health checks."""
        while True:
            try:
                slots = f"{len(self._tries)}/{self._places}"
                await self._queue.beat(self._registration, slots)
                self._outage.done("beat")
                await asyncio.sleep(self._lease_seconds / 3)
            except StoreUnavailable as error:
                self._outage.refused("beat", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tries.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tries.discard(task)
        self._place_free.set()

    async def _register(self) -> None:
        """Registers with RQ, whose tools then show this worker. Tries until that succeeds."""
        while not self._stopping.is_set():
            try:
                await self._registration.begin()
            except (StoreUnavailable, RuntimeError) as error:
                # RuntimeError: the machine has no room for another thread.
                self._outage.refused("register", error)
                await unless(self._stopping, asyncio.sleep(RETRY_STORE_SECONDS))
            else:
                self._outage.done("register")
                return

    async def _unregister(self) -> None:
        try:
            await self._queue.leave()
            await self._registration.end()
        except (StoreUnavailable, RuntimeError) as error:
            self._outage.refused("unregister", error)
