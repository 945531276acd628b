"""The worker: takes executions from one queue, has them run by its children, and keeps its word to the store.

One event loop, no threads, no flow's code: whatever flows do, leases are extended in time. Everything a
worker does with the store is one of the loops below, each with one purpose.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis
import structlog
from rq import Queue
from rq.worker import BaseWorker

from app import logs
from app.catalog.model import Catalog
from app.errors import StoreRefused, StoreUnavailable
from app.executions import connection
from app.executions.job import ExecutionJob
from app.executions.reaper import pause_seconds
from app.settings import Settings
from app.tracing import Tracing
from app.work.attempt import Attempt, Stopping
from app.work.delivery import Delivery
from app.work.ledger import Ledger
from app.work.outage import RETRY_STORE_SECONDS, OutageLog, nobody_can_be_served
from app.work.pool import Pool
from app.work.runs import Runs

CLAIM_LIMIT = 64
"""Executions that one call may claim: enough to make round trips cheap, few enough to share the work."""

PROGRESS_SECONDS = 0.2
ALIVE_SECONDS = 1.0

FENCE_SHARE = 0.75
"""The share of a lease without a beat after which children are not left alone with their work."""

HAND_BACK_SECONDS = 4.0
"""For writing what is handed back at the shutdown. With SHUTDOWN_GRACE it stays below Heroku's 30 s."""

log = structlog.get_logger(__name__)


class ExecutionWorker(BaseWorker):
    """An RQ worker that runs many executions at once, in child processes.

    RQ knows it by its registration and heartbeat (`rq info`). Replaced are: the loop that pops one job
    and forks (a script claims several at once), the bookkeeping for each job (the scripts keep the
    record), the clean-up of registries (there are none; the reaper moves on what is lost), and the
    commands (RQ's stop command kills a process without asking whose it is).
    """

    def __init__(
        self, queue: str, connection: redis.Redis, settings: Settings, make_pool: Callable[..., Pool], tracing: Tracing
    ):
        queues = [Queue(queue, connection=connection, job_class=ExecutionJob)]
        super().__init__(queues, name=secrets.token_hex(6), connection=connection)
        self._settings = settings
        self._ledger = Ledger(settings, queue, self.name)
        self._runs = Runs(settings, make_pool, tracing)
        self._outage = OutageLog(queue=queue)
        self._stopping = asyncio.Event()
        self._delays_changed = asyncio.Event()
        self._delivery = Delivery(self._ledger, self._runs, self._outage, CLAIM_LIMIT, self._delays_changed.set)
        self._beaten_at = 0.0
        self._cut_off = True

    async def run(self) -> None:
        """Works until `request_shutdown`; then lets end what can, hands back the rest, and returns.

        Raises what ended a loop, which is a bug: the process should end, and be started again.
        """
        self._beaten_at = asyncio.get_running_loop().time()
        await self._register()
        self._runs.pool.open()
        loops = [
            self._beat_loop(),
            self._progress_loop(),
            self._guard_loop(),
            self._command_loop(),
            self._reap_loop(),
            self._delivery.run(),
        ]
        claiming, *others = [asyncio.ensure_future(loop) for loop in (self._claim_loop(), *loops)]
        try:
            done, _ = await asyncio.wait({claiming, *others}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._shut_down()
        finally:
            for task in (claiming, *others):
                task.cancel()
            await self._runs.close()
            await self._unregister()
            await self._ledger.close()

    def request_shutdown(self) -> None:
        """Takes no new work from now on. For a signal handler of the event loop."""
        self._stopping.set()

    def renew(self, catalog: Catalog) -> None:
        """New attempts run with these definitions; those that run end with theirs."""
        self._runs.pool.renew(catalog)

    async def _claim_loop(self) -> None:
        """Fills free slots. Ends at the shutdown, never in the middle of a claim."""
        in_doubt = False
        while not self._stopping.is_set():
            try:
                if in_doubt:
                    await self._ledger.hand_back_others(self._runs.attempts)
                    in_doubt = False
                if not self._runs.pool.free_slots:
                    self._outage.done("claim")
                    await self._or_stopping(self._runs.pool.free.wait())
                    continue
                in_doubt = True  # if the answer is lost, something may have been claimed all the same
                rows = await self._ledger.claim(min(self._runs.pool.free_slots, CLAIM_LIMIT))
                for row in rows:
                    await self._start(row)
                in_doubt = False
                self._outage.done("claim")
                if not rows:
                    await self._or_stopping(self._ledger.wait_for_work())
            except StoreRefused:
                log.exception("claim_failed")  # something in the queue that nobody thought of: others must go on
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
            except StoreUnavailable as error:
                self._outage.refused("claim", error)
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))

    async def _beat_loop(self) -> None:
        """Extends the leases of all attempts, three times a lease, and says that this worker lives."""
        while True:
            asked_at = asyncio.get_running_loop().time()
            try:
                attempts = list(self._runs.attempts.values())
                slots = f"{len(attempts)}/{self._runs.pool.slots}"
                await self._beat(attempts, lambda pipe: self.heartbeat(pipeline=pipe), slots)
            except StoreUnavailable as error:
                self._cut_off = not nobody_can_be_served(error)
                self._outage.refused("beat", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)
            else:
                self._beaten_at, self._cut_off = asked_at, True
                self._runs.pool.resume()
                self._outage.done("beat")
                await asyncio.sleep(self._settings.lease / 3)

    async def _progress_loop(self) -> None:
        """Stores progress soon after it is made. What the store misses goes with a later beat."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            attempts = self._runs.attempts.values()
            changed = [each for each in attempts if (each.progress or each.usage) and not each.concluded]
            if changed:
                try:
                    await self._beat(changed)
                except StoreUnavailable:
                    continue

    async def _guard_loop(self) -> None:
        """Keeps children from running on after their leases may have been given away.

        Where the store is away for everybody, nobody can be given anything, and flows go on. Where it is
        silent, this worker alone may be cut off: its children are frozen before their leases run out,
        until a beat tells whether they may go on. (A child that hears nothing ends itself: see `child`.)
        """
        while True:
            unbeaten_seconds = asyncio.get_running_loop().time() - self._beaten_at
            if unbeaten_seconds > self._settings.lease * FENCE_SHARE and self._cut_off:
                self._runs.pool.suspend()
            else:
                self._runs.pool.say_alive()
            logs.flush()
            await asyncio.sleep(min(ALIVE_SECONDS, self._settings.lease / 12))

    async def _command_loop(self) -> None:
        """Hears of cancels at once. What it misses, the next beat brings."""
        while True:
            commands = self._ledger.commands()
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
        """Moves on what nobody else does, six times a lease, and when a delay is over; reports what was counted."""
        next_due: float | None = None
        while True:
            await _at_most(pause_seconds(self._settings.lease, next_due), self._delays_changed.wait())
            self._delays_changed.clear()
            try:
                next_due = await self._ledger.reap()
                await self._ledger.add(self._runs.pool.counted)
            except StoreUnavailable as error:
                next_due = None
                if isinstance(error, StoreRefused):
                    log.exception("reap_failed")

    async def _start(self, row: list[bytes]) -> None:
        try:
            attempt = Attempt.from_claim(row)
            if attempt.resumes:
                await self._ledger.load_steps(attempt)
            self._runs.start(attempt)
        except (ValueError, IndexError, StoreRefused):
            # Nobody beats for it, so its lease runs out; after config.max_attempts it ends as failed.
            log.error("record_unreadable", execution_id=row[0].decode(errors="replace"))

    async def _beat(
        self, attempts: Sequence[Attempt], also: Callable[[Any], None] | None = None, slots: str = ""
    ) -> None:
        sent = [(each.progress, each.usage) for each in attempts]
        answers = await self._ledger.beat(attempts, also, slots)
        for attempt, (progress, usage), answer in zip(attempts, sent, answers, strict=True):
            if attempt.progress == progress:
                attempt.progress = ""
            if attempt.usage == usage:
                attempt.usage = ""
            if answer == "cancel":
                self._runs.stop(attempt, Stopping.CANCEL)
            elif answer == "lost" and not attempt.concluded:
                log.warning("attempt_lost", **attempt.names())
                self._runs.stop(attempt, Stopping.LOST)

    def handle_payload(self, message: dict[str, Any]) -> None:
        """A command to this worker. `cancel` is the only one; anybody may send anything, so it is read with care."""
        try:
            payload = json.loads(message["data"])
            attempts = self._runs.of(payload["execution_id"]) if payload["command"] == "cancel" else []
        except (ValueError, KeyError, TypeError):
            return
        for attempt in attempts:
            self._runs.stop(attempt, Stopping.CANCEL)

    async def _shut_down(self) -> None:
        """Lets what can end within SHUTDOWN_GRACE end; kills and hands back the rest."""
        log.info("worker_stopping", attempts=len(self._runs.attempts))
        await _at_most(self._settings.shutdown_grace, self._runs.idle.wait())
        await self._runs.close()
        await _at_most(HAND_BACK_SECONDS, self._runs.idle.wait())

    async def _or_stopping(self, waiting: Awaitable[Any]) -> None:
        """Waits for something, or for the shutdown, whichever comes first."""
        work, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            stop.cancel()

    async def _register(self) -> None:
        """Tells RQ's tools that there is this worker, as soon as the store takes it."""
        while not self._stopping.is_set():
            try:
                with connection.translated():
                    self.register_birth()  # type: ignore[no-untyped-call]  # RQ's
            except ValueError:
                return  # there is a worker of this name, so it was told already, and the answer was lost
            except StoreUnavailable as error:
                self._outage.refused("register", error)
                await self._or_stopping(asyncio.sleep(RETRY_STORE_SECONDS))
            else:
                self._outage.done("register")
                return

    async def _unregister(self) -> None:
        try:
            await self._ledger.add(self._runs.pool.counted)
            await self._ledger.leave()
            self.register_death()  # type: ignore[no-untyped-call]  # RQ's
        except (StoreUnavailable, redis.RedisError) as error:
            self._outage.refused("unregister", error)


async def _at_most(seconds: float, waiting: Awaitable[Any]) -> None:
    try:
        await asyncio.wait_for(waiting, seconds)
    except TimeoutError:
        return
