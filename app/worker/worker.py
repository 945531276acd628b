"""Claims executions from one queue, and extends their leases while its children run them.

`main` starts one `ExecutionWorker` per queue. Its event loop runs no flow's code, so leases are
extended in time whatever flows do: see `heartbeat`. Each of the `_..._loop` methods has one
purpose. `_begin` makes an `Attempt` of each claimed execution.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Coroutine
from contextlib import aclosing
from typing import Any

import structlog

from app.catalog.model import Catalog
from app.domain.errors import StoreRefused, StoreUnavailable
from app.settings import Settings
from app.store.attempt_store import AttemptStore, ClaimIsLate
from app.store.reaper import pause_seconds
from app.store.registration import Registration
from app.store.write import Write
from app.telemetry.tracing import Tracing
from app.worker.attempt import Attempt
from app.worker.child_process import ChildProcess
from app.worker.claim import Claim
from app.worker.ending import Stopping, failure
from app.worker.heartbeat import Heartbeat
from app.worker.loops import at_most, for_life, register, unless
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog
from app.worker.pool import Pool
from app.worker.writer import ResultWriter, WriteRefused

CLAIM_LIMIT = 64
"""Executions that one call may claim: enough to make round trips cheap, and few enough to leave
work for other workers.
"""

HAND_BACK_SECONDS = 4.0
"""The time for releasing executions at a shutdown. With SHUTDOWN_GRACE it stays below the 30 s
after which Heroku kills a process.
"""

MAX_HEARD = 1000
"""Executions that somebody follows, and whose claim is perhaps still on its way to this worker."""

log = structlog.get_logger(__name__)


class ExecutionWorker:
    """Runs many executions of one queue at once, in child processes. `Registration` says what it
    replaces of RQ's worker.
    """

    def __init__(
        self,
        registration: Registration,
        queue: str,
        settings: Settings,
        pool: Pool,
        tracing: Tracing,
    ):
        self.name = registration.name
        self._registration = registration
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
        self._heard: deque[str] = deque(maxlen=MAX_HEARD)
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._beats = Heartbeat(
            self._attempts,
            self._pool,
            self._store,
            self._outage,
            settings.lease,
            self._registration.add_heartbeat,
        )

    async def run(self) -> None:
        """Works until `request_shutdown`. Then waits for attempts that can end in time, releases
        the others, and returns.
        """
        await register(self._registration, self._outage, self._stopping)
        self._pool.open()
        loops = (
            self._beats.beat_loop,
            self._beats.progress_loop,
            self._beats.guard_loop,
            self._command_loop,
            self._reap_loop,
            self._writer.run,
            self._pool.watch,
        )
        others = [asyncio.ensure_future(for_life(loop)) for loop in loops]
        try:
            await for_life(self._claim_loop)
            await self._shut_down()
        finally:
            for task in (*others, *self._tasks):
                task.cancel()
            await self._pool.close()
            await self._beats.end()
            await self._unregister()
            await self._store.close()

    def request_shutdown(self) -> None:
        """Starts the shutdown. May be called repeatedly, and in a signal handler of the loop."""
        self._stopping.set()

    def renew(self, catalog: Catalog) -> None:
        """Runs new attempts with these definitions. Running attempts keep theirs."""
        self._pool.renew(catalog)

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
                self._beats.beat_now()
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

    async def _command_loop(self) -> None:
        """Receives cancels at once. One that gets lost arrives with the next heartbeat."""
        while True:
            try:
                commands = self._store.commands(self._registration.pubsub_channel_name)
                async with aclosing(commands):
                    async for command in commands:
                        self._obey(command)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_STORE_SECONDS)

    async def _reap_loop(self) -> None:
        """Runs the reaper six times a lease and whenever a delay ends, and stores the counts of
        this worker.
        """
        next_due: float | None = None
        while True:
            await at_most(
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
        if claim.id in self._heard:
            attempt.listen()
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
            await self._writer.write(Write(id, token, ending.script, ending.arguments, str))
        except WriteRefused:
            return  # its lease expires, and the reaper takes care of it

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _obey(self, command: Any) -> None:
        """Takes a command to this worker: `cancel`, or `listen` if somebody follows an execution.
        Everything else is ignored: any client of the store can publish anything here.
        """
        try:
            payload = json.loads(command)
            id, what = payload["execution_id"], payload["command"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if what == "listen":
            # The answer of a claim may arrive after a command that was sent later.
            self._heard.append(str(id))
        for attempt in [found for found in self._attempts.values() if found.claim.id == id]:
            if what == "cancel":
                attempt.stop(Stopping.CANCEL)
            elif what == "listen":
                attempt.listen()

    def _store_did(self, what: str) -> None:
        """Notes that a call succeeded. If that ended an outage, beats at once: another server may
        have taken over, so the leases must be checked.
        """
        if self._outage.done(what):
            self._beats.beat_now()

    async def _shut_down(self) -> None:
        """Waits up to SHUTDOWN_GRACE for attempts to end, then kills and releases the rest."""
        log.info("worker_stopping", attempts=len(self._attempts))
        await at_most(self._settings.shutdown_grace, self._idle.wait())
        for attempt in list(self._attempts.values()):
            attempt.stop(Stopping.SHUTDOWN)
        # Every child must be dead before its execution is released and another worker starts it.
        await self._pool.close()
        await at_most(HAND_BACK_SECONDS, self._idle.wait())

    async def _or_stopping(self, waiting: Awaitable[Any]) -> None:
        await unless(self._stopping, waiting)

    async def _unregister(self) -> None:
        try:
            await self._store.add(self._pool.counted)
            await self._store.leave()
            await self._registration.end()
        except (StoreUnavailable, RuntimeError) as error:
            self._outage.refused("unregister", error)
