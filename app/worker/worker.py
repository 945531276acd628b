"""Claims executions from one queue, and extends their leases while its children run them.

`main` starts one `ExecutionWorker` per queue. It is one event loop that runs no flow's code, so
leases are extended in time whatever flows do. Each of the `_..._loop` methods has one purpose.
`_begin` makes an `Attempt` of each claimed execution.
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
"""Executions that one call may claim: enough to make round trips cheap, and few enough to leave
work for other workers.
"""

PROGRESS_SECONDS = 0.2
"""How often progress is stored. A heartbeat alone would store it only every third of a lease."""

ALIVE_SECONDS = 1.0
"""How often the children are told that their worker lives."""

FENCE_SHARE = 0.75
"""The share of a lease without a heartbeat after which children are frozen. The rest of the lease
is a reserve for freezing them in time.
"""

HAND_BACK_SECONDS = 4.0
"""The time for releasing executions at a shutdown. With SHUTDOWN_GRACE it stays below the 30 s
after which Heroku kills a process.
"""

RESTART_SECONDS = 1.0
"""The pause before a loop that failed with an error of its own runs again."""

log = structlog.get_logger(__name__)


class ExecutionWorker(BaseWorker):
    """An RQ worker that runs many executions at once, in child processes.

    RQ knows it by its registration and heartbeat (`rq info`). It replaces these parts of RQ's
    worker:

    - the loop that pops one job and forks: a script claims several at once
    - the bookkeeping for each job: the scripts keep the record
    - the clean-up of registries: the reaper requeues what was lost
    - the commands: RQ's stop command kills a process without checking which job it runs
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
        """`process` is the same for all workers of one process, as they all die together: see
        `reap.lua`.
        """
        queues = [Queue(queue, connection=connection, job_class=ExecutionJob)]
        super().__init__(queues, name=f"{process}-{queue}", connection=connection)
        self._settings = settings
        self._pool = pool
        self._tracing = tracing
        self._store = AttemptStore(settings, queue, self.name)
        self._outage = OutageLog(queue=queue)
        self._stopping = asyncio.Event()
        self._delays_changed = asyncio.Event()
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
        """Works until `request_shutdown`. Then waits for attempts that can end in time, releases
        the others, and returns.
        """
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
        """Starts the shutdown. May be called repeatedly, and in a signal handler of the loop."""
        self._stopping.set()

    def renew(self, catalog: Catalog) -> None:
        """Runs new attempts with these definitions. Running attempts keep theirs."""
        self._pool.renew(catalog)

    async def _for_life(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a loop to its end. An error in it is logged and the loop runs again: no attempt of
        this worker may suffer from it.
        """
        while True:
            try:
                return await loop()
            except Exception:
                log.exception("loop_broke", loop=loop.__name__)
                await asyncio.sleep(RESTART_SECONDS)

    async def _claim_loop(self) -> None:
        """Fills free slots. Ends at the shutdown, as soon as every claimed execution is known."""
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
                # If the reply is lost, something may have been claimed all the same.
                in_doubt = True
                rows = await self._store.claim(min(self._pool.free_slots, CLAIM_LIMIT))
                for row in rows:
                    self._begin(row)
                in_doubt = False
                self._store_did("claim")
                if not rows:
                    await self._or_stopping(self._store.wait_for_work())
            except ClaimIsLate:
                # Only this worker counts its claims, so the store must have lost its last writes,
                # for example in a failover. It may have lost leases, too.
                log.warning("store_went_back", worker=self.name)
                self._beat_now.set()
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
            except StoreRefused:
                # The script failed on something unforeseen in the queue. Later tries may succeed,
                # and the attempts that run must go on.
                log.exception("claim_failed")
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
            except StoreUnavailable as error:
                self._outage.refused("claim", error)
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
                if self._stopping.is_set():
                    return  # an unknown claim is requeued when its lease expires

    async def _fence(self) -> None:
        """Cancels claims that are still on their way, and releases executions unknown here."""
        await self._store.fence()
        if handed_back := await self._store.hand_back_others(self._attempts):
            log.warning("claims_handed_back", count=handed_back)

    async def _beat_loop(self) -> None:
        """Extends the leases of all attempts and records that this worker lives, three times a
        lease.

        Beats at once when the number of slots changes, and after an outage: the store may have come
        back with older data.
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

    async def _progress_loop(self) -> None:
        """Stores progress soon after it is reported. What fails goes with the next heartbeat."""
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
        """Stops children from running on after other workers may have got their executions.

        If the store is away for everybody, it gives nothing to other workers, and flows go on. If
        it is silent, perhaps only this worker is cut off. Its children are then frozen before their
        leases expire, until a heartbeat shows whether they may go on. (A child that hears nothing
        from its worker ends itself: see `child`.)
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
        """Receives cancels at once. One that gets lost arrives with the next heartbeat."""
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
        """Runs the reaper six times a lease and whenever a delay ends, and stores the counts of
        this worker.
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
        """Starts the attempt of a claimed row in a task of its own. If the record makes no sense,
        its execution fails.
        """
        try:
            claim = Claim.from_row(row)
        except (ValueError, IndexError, RecursionError):
            self._spawn(self._end_unreadable(row))
            return
        attempt = Attempt(claim, self._settings, self._tracing)
        self._attempts[claim.key] = attempt
        self._idle.clear()
        # Takes the slot now, not in the task: the next claim counts the slots that are still free.
        child = None if claim.alone else self._pool.acquire(attempt)
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
            claim, "RecordUnreadable", "The stored record of this execution is invalid."
        )
        try:
            await self._writer.write(Write(claim, ending.script, ending.arguments, str))
        except WriteRefused:
            return  # its lease expires, and the reaper takes care of it

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
        """Takes a command to this worker. Only `cancel` is known, and everything else is ignored:
        any client of the store can publish anything here. (The name is RQ's.)
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
        """Notes that a call succeeded. If that ended an outage, beats at once: another server may
        have taken over, so the leases must be checked.
        """
        if self._outage.done(what):
            self._beat_now.set()

    async def _shut_down(self) -> None:
        """Waits up to SHUTDOWN_GRACE for attempts to end, then kills and releases the rest."""
        log.info("worker_stopping", attempts=len(self._attempts))
        await _at_most(self._settings.shutdown_grace, self._idle.wait())
        for attempt in list(self._attempts.values()):
            attempt.stop(Stopping.SHUTDOWN)
        # Every child must be dead before its execution is released and another worker starts it.
        await self._pool.close()
        await _at_most(HAND_BACK_SECONDS, self._idle.wait())

    async def _or_stopping(self, waiting: Awaitable[Any]) -> None:
        """Waits for something, or for the shutdown, whichever comes first."""
        work, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            # Otherwise asyncio would log an error that comes now, and that nobody reads.
            work.add_done_callback(_ignore_error)
            work.cancel()
            stop.cancel()

    async def _register(self) -> None:
        """Registers this worker with RQ, whose tools then show it. Tries until that succeeds."""
        while not self._stopping.is_set():
            try:
                with connection.translated():
                    await asyncio.to_thread(self.register_birth)  # RQ's code blocks
            except ValueError:
                # RQ has a worker of this name. The name is random, so it is this one: an earlier
                # try succeeded, and only its reply was lost.
                return
            except (StoreUnavailable, RuntimeError) as error:
                # RuntimeError: the machine has no room for another thread.
                self._outage.refused("register", error)
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
            else:
                self._outage.done("register")
                return

    async def _unregister(self) -> None:
        try:
            await self._store.add(self._pool.counted)
            await self._store.leave()
            await asyncio.to_thread(self.register_death)  # RQ's code blocks
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
