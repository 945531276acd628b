"""The worker: takes executions from one queue, has its children run them, and keeps its word to the
store.

One event loop, and no flow's code: whatever flows do, leases are extended in time. Everything a
worker does with the store is one of the loops below, each with one purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import redis
import structlog
from rq import Queue
from rq.worker import BaseWorker

from app.catalog.model import Catalog
from app.domain.errors import StoreRefused, StoreUnavailable
from app.settings import Settings
from app.store import connection
from app.store.job import ExecutionJob
from app.store.reaper import pause_seconds
from app.telemetry import logs
from app.telemetry.tracing import Tracing
from app.worker.attempt import Attempt
from app.worker.attempt_store import AttemptStore, ClaimIsLate
from app.worker.child_process import ChildProcess
from app.worker.claim import Claim
from app.worker.ending import Stopping, failure
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog, nobody_can_be_served
from app.worker.pool import Pool
from app.worker.write import Write
from app.worker.writer import ResultWriter, WriteRefused

CLAIM_LIMIT = 64
"""Executions that one call may claim: enough to make round trips cheap, few enough to share the
work.
"""

PROGRESS_SECONDS = 0.2
ALIVE_SECONDS = 1.0

FENCE_SHARE = 0.75
"""The share of a lease without a beat after which children are not left alone with their work."""

HAND_BACK_SECONDS = 4.0
"""For writing what is handed back at the shutdown. With SHUTDOWN_GRACE it stays below Heroku's 30
s.
"""

RESTART_SECONDS = 1.0
"""The pause before a loop that met an error of its own goes on."""

log = structlog.get_logger(__name__)


class ExecutionWorker(BaseWorker):
    """An RQ worker that runs many executions at once, in child processes.

    RQ knows it by its registration and heartbeat (`rq info`). Replaced are: the loop that pops one
    job and forks (a script claims several at once), the bookkeeping for each job (the scripts keep
    the record), the clean-up of registries (there are none; the reaper moves on what is lost), and
    the commands (RQ's stop command kills a process without asking whose it is).
    """

    def __init__(
        self,
        queue: str,
        connection: redis.Redis,
        settings: Settings,
        pool: Pool,
        tracing: Tracing,
        process: str,
    ):
        """`process` is the same for all workers of one process: if one of them dies, all do (see
        `reap.lua`).
        """
        queues = [Queue(queue, connection=connection, job_class=ExecutionJob)]
        super().__init__(queues, name=f"{process}-{queue}", connection=connection)
        self._settings, self._pool, self._tracing = settings, pool, tracing
        self._store = AttemptStore(settings, queue, self.name)
        self._outage = OutageLog(queue=queue)
        self._stopping, self._delays_changed = asyncio.Event(), asyncio.Event()
        self._writer = ResultWriter(
            self._store, self._outage, CLAIM_LIMIT, self._delays_changed.set
        )
        self._attempts: dict[tuple[str, str], Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._beat_now = asyncio.Event()
        self._beaten_at = 0.0
        self._cut_off = True

    async def run(self) -> None:
        """Works until `request_shutdown`; then lets end what can, hands back the rest, and returns."""
        self._beaten_at = asyncio.get_running_loop().time()
        await self._register()
        self._pool.open()
        loops = (
            self._beat_loop,
            self._progress_loop,
            self._guard_loop,
            self._command_loop,
            self._reap_loop,
            self._writer.run,
            self._pool.watch,
        )
        others = [asyncio.ensure_future(self._for_life(loop)) for loop in loops]
        try:
            await self._for_life(self._claim_loop)
            await self._shut_down()
        finally:
            for task in (*others, *self._tasks):
                task.cancel()
            await self._pool.close()
            await self._unregister()
            with contextlib.suppress(redis.RedisError, OSError):
                await self._store.close()

    def request_shutdown(self) -> None:
        """Takes no new work from now on. For a signal handler of the event loop."""
        self._stopping.set()

    def renew(self, catalog: Catalog) -> None:
        """New attempts run with these definitions; those that run end with theirs."""
        self._pool.renew(catalog)

    async def _for_life(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a loop to its end. One that meets an error of its own is logged and goes on: no
        attempt of this worker may suffer from it.
        """
        while True:
            try:
                return await loop()
            except Exception:
                log.exception("loop_broke", loop=loop.__name__)
                await asyncio.sleep(RESTART_SECONDS)

    async def _claim_loop(self) -> None:
        """Fills free slots. Ends at the shutdown, when nothing that was claimed is unknown."""
        in_doubt = True
        while in_doubt or not self._stopping.is_set():
            try:
                if in_doubt:
                    await self._fence()
                    in_doubt = False
                    continue
                if not self._pool.free_slots:
                    self._outage.done("claim")
                    await self._or_stopping(self._pool.free.wait())
                    continue
                in_doubt = (
                    True  # if the answer is lost, something may have been claimed all the same
                )
                rows = await self._store.claim(min(self._pool.free_slots, CLAIM_LIMIT))
                for row in rows:
                    self._begin(row)
                in_doubt = False
                self._store_did("claim")
                if not rows:
                    await self._or_stopping(self._store.wait_for_work())
            except ClaimIsLate:
                # Nobody else counts this worker's claims, so the store has lost its last writes.
                log.warning("store_went_back", worker=self.name)
                self._beat_now.set()
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
            except StoreRefused:
                log.exception(
                    "claim_failed"
                )  # something in the queue that nobody thought of: others must go on
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
            except StoreUnavailable as error:
                self._outage.refused("claim", error)
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
                if self._stopping.is_set():
                    return  # what is unknown is found when its lease runs out

    async def _fence(self) -> None:
        """Makes claims that are still on their way do nothing, and hands back what is unknown here."""
        await self._store.fence()
        if handed_back := await self._store.hand_back_others(self._attempts):
            log.warning("claims_handed_back", count=handed_back)

    async def _beat_loop(self) -> None:
        """Extends the leases of all attempts, three times a lease, and says that this worker lives.

        At once when slots have come or gone, or when the store was away: what it says then may have
        changed.
        """
        while True:
            asked_at = asyncio.get_running_loop().time()
            self._beat_now.clear()
            self._pool.changed.clear()
            try:
                slots, beaten_slots = f"{len(self._attempts)}/{self._pool.slots}", self._pool.slots
                await self._beat(
                    list(self._attempts.values()), lambda pipe: self.heartbeat(pipeline=pipe), slots
                )
            except StoreUnavailable as error:
                self._cut_off = not nobody_can_be_served(error)
                self._outage.refused("beat", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)
            else:
                self._beaten_at, self._cut_off = asked_at, True
                self._pool.resume()
                self._outage.done("beat")
                await self._next_beat(asked_at + self._settings.lease / 3, beaten_slots)

    async def _next_beat(self, due_at: float, beaten_slots: int) -> None:
        """Returns when the next beat is due, or there is a reason to beat at once."""
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

    async def _progress_loop(self) -> None:
        """Stores progress soon after it is made. What the store misses goes with a later beat."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            attempts = self._attempts.values()
            changed = [
                attempt
                for attempt in attempts
                if (attempt.progress or attempt.usage) and not attempt.concluded
            ]
            if changed:
                try:
                    await self._beat(changed)
                except StoreUnavailable:
                    continue

    async def _guard_loop(self) -> None:
        """Keeps children from running on after their leases may have been given away.

        If the store is away for everybody, nobody can be given anything, and flows go on. If it is
        silent, this worker alone may be cut off: its children are frozen before their leases run
        out, until a beat tells whether they may go on. (A child that hears nothing ends itself: see
        `child`.)
        """
        while True:
            unbeaten_seconds = asyncio.get_running_loop().time() - self._beaten_at
            if unbeaten_seconds > self._settings.lease * FENCE_SHARE and self._cut_off:
                self._pool.suspend()
            else:
                self._pool.say_alive()
            logs.flush()
            await asyncio.sleep(min(ALIVE_SECONDS, self._settings.lease / 12))

    async def _command_loop(self) -> None:
        """Hears of cancels at once. What it misses, the next beat brings."""
        while True:
            commands = self._store.commands()
            try:
                await commands.subscribe(self.pubsub_channel_name)
                while True:
                    if message := await commands.get_message(timeout=None):
                        self.handle_payload(message)
            except (redis.RedisError, OSError):
                await asyncio.sleep(RETRY_STORE_SECONDS)
            finally:
                await commands.aclose()

    async def _reap_loop(self) -> None:
        """Moves on what nobody else does, six times a lease, and when a delay is over; reports what
        was counted.
        """
        next_due: float | None = None
        while True:
            await _at_most(
                pause_seconds(self._settings.lease, next_due), self._delays_changed.wait()
            )
            self._delays_changed.clear()
            try:
                next_due = await self._store.reap()
                await self._store.add(self._pool.counted)
            except StoreUnavailable as error:
                next_due = None
                if isinstance(error, StoreRefused):
                    log.exception("reap_failed")

    def _begin(self, row: list[bytes]) -> None:
        """Starts an attempt in a task of its own; a record that makes no sense ends its execution."""
        try:
            claim = Claim.from_row(row)
        except (ValueError, IndexError, RecursionError):
            self._spawn(self._end_unreadable(row))
            return
        attempt = Attempt(claim, self._settings, self._tracing)
        self._attempts[claim.key] = attempt
        self._idle.clear()
        child = (
            None if claim.alone else self._pool.acquire(attempt)
        )  # now: the next claim asks for as many as are free then
        self._spawn(self._run(attempt, child))

    async def _run(self, attempt: Attempt, child: ChildProcess | None) -> None:
        try:
            await attempt.run(child, self._pool, self._store, self._writer)
        finally:
            del self._attempts[attempt.claim.key]
            if not self._attempts:
                self._idle.set()

    async def _end_unreadable(self, row: list[bytes]) -> None:
        id, token = (value.decode(errors="replace") for value in row[:2])
        log.error("record_unreadable", execution_id=id)
        claim = Claim(id, token, number=0, data=row[8] if len(row) > 8 else b"")
        ending = failure(
            claim, "RecordUnreadable", "What is stored of this execution makes no sense."
        )
        try:
            await self._writer.write(Write(claim, ending.script, ending.arguments, str))
        except WriteRefused:
            return  # its lease runs out, and the reaper moves it on

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _beat(
        self,
        attempts: Sequence[Attempt],
        also: Callable[[Any], None] | None = None,
        slots: str = "",
    ) -> None:
        beats = [attempt.next_beat() for attempt in attempts]
        answers = await self._store.beat(beats, also, slots)
        for attempt, beat, answer in zip(attempts, beats, answers, strict=True):
            attempt.beat_stored(beat)
            if answer == "cancel":
                attempt.stop(Stopping.CANCEL)
            elif answer == "lost" and not attempt.concluded:
                log.warning("attempt_lost", **attempt.names())
                attempt.stop(Stopping.LOST)

    def handle_payload(self, message: dict[str, Any]) -> None:
        """A command to this worker. `cancel` is the only one; anybody may send anything, so it is
        read with care.
        """
        try:
            payload = json.loads(message["data"])
            id = payload["execution_id"] if payload["command"] == "cancel" else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        for attempt in list(self._attempts.values()):
            if attempt.claim.id == id:
                attempt.stop(Stopping.CANCEL)

    def _store_did(self, what: str) -> None:
        """The store does it again: it may have come back as another one, so ask at once whether
        leases still hold.
        """
        if self._outage.done(what):
            self._beat_now.set()

    async def _shut_down(self) -> None:
        """Lets what can end within SHUTDOWN_GRACE end; kills and hands back the rest."""
        log.info("worker_stopping", attempts=len(self._attempts))
        await _at_most(self._settings.shutdown_grace, self._idle.wait())
        for attempt in list(self._attempts.values()):
            attempt.stop(Stopping.SHUTDOWN)
        await self._pool.close()  # first every child is dead, then it is said
        await _at_most(HAND_BACK_SECONDS, self._idle.wait())

    async def _or_stopping(self, waiting: Awaitable[Any]) -> None:
        """Waits for something, or for the shutdown, whichever comes first."""
        work, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.add_done_callback(_ignore_error)  # nobody asks how it ends now
            work.cancel()
            stop.cancel()

    async def _register(self) -> None:
        """Tells RQ's tools that there is this worker, as soon as the store takes it."""
        while not self._stopping.is_set():
            try:
                with connection.translated():
                    await asyncio.to_thread(self.register_birth)  # RQ's, which blocks
            except ValueError:
                # there is a worker of this name, so it was told already, and the answer was lost
                return
            except (
                StoreUnavailable,
                RuntimeError,
            ) as error:  # the latter: no thread can be started just now
                self._outage.refused("register", error)
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
            else:
                self._outage.done("register")
                return

    async def _unregister(self) -> None:
        try:
            await self._store.add(self._pool.counted)
            await self._store.leave()
            await asyncio.to_thread(self.register_death)  # RQ's, which blocks
        except (StoreUnavailable, redis.RedisError, RuntimeError) as error:
            self._outage.refused("unregister", error)


def _ignore_error(work: asyncio.Future[Any]) -> None:
    if not work.cancelled():
        work.exception()


async def _at_most(seconds: float, waiting: Awaitable[Any]) -> None:
    try:
        await asyncio.wait_for(waiting, seconds)
    except TimeoutError:
        return
