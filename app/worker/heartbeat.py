"""Extends the leases of a worker's attempts, and freezes its children if that fails for too long.

`worker` runs its three loops: heartbeats three times a lease, progress in between, and the guard
over the children. Cancels and lost leases, which the store answers, go to the attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from app.domain.errors import StoreUnavailable
from app.store.attempt_store import AttemptStore
from app.store.connection import nobody_can_be_served
from app.telemetry import logs
from app.worker.attempt import Attempt
from app.worker.ending import Stopping
from app.worker.event_buffer import BYTES_PER_CALL
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog
from app.worker.pool import Pool

PROGRESS_SECONDS = 0.2
"""How often progress and events are stored. A heartbeat alone would store them only every third of
a lease.
"""

ALIVE_SECONDS = 1.0
"""How often the worker sends its children a sign that it is alive."""

FENCE_SHARE = 0.75
"""The share of a lease without a heartbeat after which children are frozen. The rest of the lease
is a reserve for freezing them in time.
"""

log = structlog.get_logger(__name__)


class Heartbeat:
    """The heartbeats of one worker, which creates it in its event loop.

    `attempts` is the worker's own mapping, which changes. `rq_heartbeat` adds the command of RQ's
    own heartbeat to a pipeline.
    """

    def __init__(
        self,
        attempts: Mapping[tuple[str, str], Attempt],
        pool: Pool,
        store: AttemptStore,
        outage: OutageLog,
        lease_seconds: float,
        rq_heartbeat: Callable[[Any], None],
    ):
        self._attempts = attempts
        self._pool = pool
        self._store = store
        self._outage = outage
        self._lease_seconds = lease_seconds
        self._rq_heartbeat = rq_heartbeat
        self._beat_now = asyncio.Event()
        self._beaten_at = asyncio.get_running_loop().time()
        self._cut_off = True
        self._sending: set[asyncio.Future[list[str]]] = set()
        self._ended = False

    def beat_now(self) -> None:
        """Makes the next heartbeat due at once, because leases may have been lost."""
        self._beat_now.set()

    async def end(self) -> None:
        """Sends no more beats, and waits for those on their way.

        To cancel the loops is not enough: a beat that the store takes after the worker has left
        would list the worker again.
        """
        self._ended = True
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def beat_loop(self) -> None:
        """Extends the leases of all attempts and records that this worker lives.

        Beats at once when the number of slots changes, and after an outage: the store may have come
        back with older data.
        """
        while True:
            asked_at = asyncio.get_running_loop().time()
            self._beat_now.clear()
            self._pool.changed.clear()
            try:
                beaten_slots = self._pool.slots
                slots = f"{len(self._attempts)}/{beaten_slots}"
                await self._beat(list(self._attempts.values()), self._rq_heartbeat, slots)
            except StoreUnavailable as error:
                self._cut_off = not nobody_can_be_served(error)
                self._outage.refused("beat", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)
            else:
                # The leases run from when the store got the call, which is after `asked_at`.
                self._beaten_at = asked_at
                self._cut_off = True
                self._pool.resume()
                self._outage.done("beat")
                await self._next_beat(asked_at + self._lease_seconds / 3, beaten_slots)

    async def _next_beat(self, due_at: float, beaten_slots: int) -> None:
        """Returns at `due_at`, or earlier if there is a reason to beat at once."""
        loop = asyncio.get_running_loop()
        while not self._beat_now.is_set() and (left_seconds := due_at - loop.time()) > 0:
            news = [
                asyncio.ensure_future(event.wait())
                for event in (self._beat_now, self._pool.changed)
            ]
            await asyncio.wait(news, timeout=left_seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in news:
                task.cancel()
            if self._pool.slots != beaten_slots:
                return
            self._pool.changed.clear()

    async def progress_loop(self) -> None:
        """Stores progress and events soon after they are reported. What fails goes with the next
        round.
        """
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            changed = [
                attempt
                for attempt in self._attempts.values()
                if attempt.has_news and not attempt.concluded
            ]
            if changed:
                try:
                    await self._beat(changed, events_bytes=BYTES_PER_CALL // len(changed))
                except StoreUnavailable:
                    continue

    async def guard_loop(self) -> None:
        """Stops children from running on after other workers may have got their executions.

        If the store is away for everybody, it gives nothing to other workers, and flows go on. If
        it is silent, perhaps only this worker is cut off. Its children are then frozen before their
        leases expire, until a heartbeat shows whether they may go on. (A child that hears nothing
        from its worker ends itself: see `child`.)
        """
        while True:
            unbeaten_seconds = asyncio.get_running_loop().time() - self._beaten_at
            if unbeaten_seconds > self._lease_seconds * FENCE_SHARE and self._cut_off:
                self._pool.suspend()
            else:
                self._pool.say_alive()
            logs.flush()
            await asyncio.sleep(min(ALIVE_SECONDS, self._lease_seconds / 12))

    async def _beat(
        self,
        attempts: Sequence[Attempt],
        also: Callable[[Any], None] | None = None,
        slots: str = "",
        events_bytes: int = 0,
    ) -> None:
        """Sends a report of each attempt. A heartbeat of all attempts brings no events: it must
        arrive in time on a slow link, too.
        """
        if self._ended:
            raise asyncio.CancelledError  # the loop has been cancelled, but a library has lost that
        beats = [attempt.next_beat(events_bytes) for attempt in attempts]
        sending = asyncio.ensure_future(self._store.beat(beats, also, slots))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        answers = await asyncio.shield(sending)
        for attempt, beat, answer in zip(attempts, beats, answers, strict=True):
            attempt.beat_stored(beat)
            if answer == "cancel":
                attempt.stop(Stopping.CANCEL)
            elif answer == "lost" and not attempt.concluded:
                log.warning("attempt_lost", **attempt.names())
                attempt.stop(Stopping.LOST)
