"""Runs one attempt at an execution, from its claim to the write that ends it.

For each execution that it claims, `worker` makes an `Attempt` and awaits its `run`: start there and
read downwards. While it runs, the worker may call `stop`, and `pool` calls `on_message` and
`set_outcome` with what the child process reports; the methods for them are at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from app.domain.errors import StoreUnavailable
from app.settings import Settings
from app.store import write
from app.store.attempt_store import AttemptStore, Beat
from app.store.write import Write
from app.telemetry.tracing import Tracing, trace_id
from app.worker import spans
from app.worker.bulkhead import AWAY_SECONDS
from app.worker.claim import Claim
from app.worker.ending import Ending, Finish, Outcome, Stopping, decide, failure
from app.worker.event_buffer import NOTHING, EventBuffer
from app.worker.protocol import split
from app.worker.saved_steps import StepsUnreadable, read_saved_steps
from app.worker.start_message import SavedSteps, StartMessage
from app.worker.writer import ResultWriter, WriteRefused

if TYPE_CHECKING:
    from app.worker.child_process import ChildProcess
    from app.worker.pool import Pool

TIMEOUT_GRACE_SECONDS = 0.5
"""The grace of a flow after its timeout: enough to close its connections, and no more."""

OWN_ERROR = "The worker met an error of its own."

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Attempt:
    """One attempt. Belongs to one event loop.

    `progress` and `usage` are the latest that its child reported, as JSON, or `""` once they are
    stored. `used` is the latest usage, stored or not. `concluded` is true once the outcome is known
    and its write is on its way. `listened`: somebody follows the execution. `stopping` is the
    reason why it should end, if there is one.
    """

    def __init__(self, claim: Claim, settings: Settings, tracing: Tracing):
        self.claim = claim
        self.progress = ""
        self.usage = ""
        self.used = ""
        self.concluded = False
        self.listened = claim.listened
        self.stopping: Stopping | None = None
        self.wire_key = "/".join(claim.key)
        """Names the attempt in messages between worker and child: execution id and token."""
        self._cancel_grace_seconds = settings.cancel_grace
        self._max_events = settings.max_events
        self._events = EventBuffer()
        self._span = spans.begin(tracing, claim)
        self._traceparent = self._span.traceparent if self._span else claim.traceparent
        self._outcome: Outcome | None = None
        self._news: asyncio.Future[None] | None = None
        self._checkpoints: deque[tuple[Mapping[str, Any], bytes]] = deque()
        self._save: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._listen: Callable[[], None] | None = None
        self._reports = 0

    # 1. From start to end.

    async def run(
        self, child: ChildProcess | None, pool: Pool, store: AttemptStore, writer: ResultWriter
    ) -> None:
        """Runs the attempt, decides what its outcome means, and writes that to the store.

        `child` is the process that has a slot for it, or None if it must run alone or no slot is
        left. An error in this code ends this attempt only, as lost.
        """
        self._save = partial(self._save_checkpoints, pool, writer)
        try:
            outcome = await self._run_or_die(child, pool, store)
            self.concluded = True
            ending = decide(self.claim, self.stopping, outcome, random.random())  # noqa: S311  no secret
            # Checkpoints go first: the store refuses them once the attempt has ended.
            if ending and self._saving:
                await self._saving
            if isinstance(ending, Finish) and ending.status != "completed":
                await self._store_progress(store)
            ending, status = await self._write_end(ending, writer)
        finally:
            if self._saving:
                self._saving.cancel()
        spans.end(self._span, ending, status)
        if isinstance(ending, Finish) and ending.error and outcome.kind != "failed":
            # The child has logged what its flow raised. This failure is the service's own.
            error = json.loads(ending.error)
            names = {**self.names(), **error["details"]}
            log.error("run_failed", **names, type=error["type"], message=error["message"])
        how = ending.arguments[0] if ending else "lost"
        worker = self.claim.worker
        log.info("attempt_ended", **self.names(), worker=worker, how=how, status=status)

    async def _run_or_die(
        self, child: ChildProcess | None, pool: Pool, store: AttemptStore
    ) -> Outcome:
        """Returns the outcome, whatever happens. After an error of our own that is `died`."""
        try:
            if self.claim.alone:
                return await self._run_alone(pool, store)
            if child is None:
                return Outcome("unstarted", reason="No process has a free slot any more.")
            return await self._run_in(child, pool, store)
        except Exception:
            log.exception("attempt_broke", **self.names())
            pool.end(self)
            return Outcome("died", reason=OWN_ERROR)

    async def _run_alone(self, pool: Pool, store: AttemptStore) -> Outcome:
        """Waits for its turn, then runs in a process of its own: see `bulkhead`."""
        if pool.bulkhead.is_crowded:
            return Outcome("unstarted", retry_after_seconds=AWAY_SECONDS)
        places = 0
        try:
            places = await self._unless_stopped(pool.bulkhead.enter(self.claim.sole))
            child = await pool.acquire_alone(self)
            if child is None:
                return Outcome("unstarted", retry_after_seconds=AWAY_SECONDS)
            return await self._run_in(child, pool, store)
        except _StoppedBefore as error:
            return error.outcome
        finally:
            pool.bulkhead.leave(places)

    async def _run_in(self, child: ChildProcess, pool: Pool, store: AttemptStore) -> Outcome:
        """Runs in a child that holds a slot for it: reads, sends, waits, and ends by force."""
        try:
            message = await self._start_message(store)
        except StepsUnreadable as error:
            pool.release(self)
            return Outcome("unsaved", reason=str(error))
        except _StoppedBefore as error:
            pool.release(self)
            return error.outcome
        if self._outcome:
            return Outcome("unstarted", reason="Its process ended before it was given the run.")
        child.send_message(message)
        self._listen = partial(child.send, {"kind": "listen", "token": self.wire_key})
        if self.listened and not self.claim.listened:
            self._listen()
        log.info("attempt_started", **self.names(), worker=self.claim.worker)

        # The flow runs. Usually this is where its outcome arrives.
        await self._until(lambda: bool(self._outcome or self.stopping), self.claim.timeout_seconds)
        # A cancel, a shutdown, a lost lease or the timeout: the flow is asked to end by itself.
        if not self._outcome:
            self.stop(Stopping.TIMEOUT)  # does nothing if there is another reason already
            child.send({"kind": "stop", "token": self.wire_key})
            await self._until(lambda: bool(self._outcome) or self._is_lost, self._grace_seconds())
        # Force: a process is killed, and its death is the outcome; a thread can only be abandoned.
        if not self._outcome:
            pool.end(self)
            await self._until(lambda: bool(self._outcome))
        assert self._outcome
        return self._outcome

    async def _start_message(self, store: AttemptStore) -> bytes:
        """Reads what earlier attempts stored, and returns the message that starts the run.

        Raises `StepsUnreadable` or `_StoppedBefore`.
        """
        saved: SavedSteps = {}, {}
        if self.claim.resumes:
            reading = read_saved_steps(store, self.claim.id, self.names())
            saved = await self._unless_stopped(reading)
        message = StartMessage(
            self.claim,
            self.wire_key,
            self.names(),
            self._traceparent,
            saved,
            self.claim.listened,
        )
        if message.is_large:
            return await self._unless_stopped(message.encoded_beside_loop())
        return message.encoded()

    def _grace_seconds(self) -> float | None:
        """How long the flow may take to end by itself; None for no limit."""
        if self.stopping is Stopping.CANCEL:
            return self._cancel_grace_seconds
        if self.stopping is Stopping.TIMEOUT:
            return TIMEOUT_GRACE_SECONDS
        if self.stopping is Stopping.SHUTDOWN:
            return None  # the worker kills all its children together when the shutdown is due
        return 0.0  # lost: another worker may run this execution at any moment

    async def _store_progress(self, store: AttemptStore) -> None:
        """Stores how far the run came, if that is not stored yet: the status goes on showing it."""
        if self.progress:
            with contextlib.suppress(StoreUnavailable):
                await store.beat([self.next_beat()])

    async def _write_end(
        self, ending: Ending | None, writer: ResultWriter
    ) -> tuple[Ending | None, str]:
        """Returns what was written, and the execution's status now: `lost` if another worker has
        the lease, or nothing could be written.
        """
        if ending is None:
            return None, "lost"
        end = Write(
            *self.claim.key,
            ending.script,
            ending.arguments,
            self._latest_usage,
            self._events.offer_all().events,
        )
        try:
            return ending, await writer.write(end)
        except WriteRefused:
            # Only outputs can be the cause, for example if they are too large for the store. After
            # any other refusal the lease expires, and the reaper requeues the execution.
            if not (isinstance(ending, Finish) and ending.status == "completed"):
                return None, "lost"
            refused = failure(self.claim, "InvalidOutput", "The store refused the outputs.")
            return await self._write_end(refused, writer)

    # 2. Waiting.

    async def _until(self, happened: Callable[[], bool], seconds: float | None = None) -> None:
        """Returns when `happened()` is true, or after `seconds`. Every change calls `_wake_up`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                while not happened():
                    self._news = loop.create_future()
                    await self._news
        except TimeoutError:
            return

    def _wake_up(self) -> None:
        if self._news and not self._news.done():
            self._news.set_result(None)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `work`. Raises `_StoppedBefore` if the attempt must end first."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._wake_up())
        try:
            await self._until(lambda: task.done() or bool(self._outcome or self.stopping))
            if task.done():
                return task.result()
            raise _StoppedBefore(Outcome("stopped" if self.stopping else "unstarted"))
        finally:
            task.cancel()

    # 3. Checkpoints, while the flow runs.

    async def _save_checkpoints(self, pool: Pool, writer: ResultWriter) -> None:
        """Stores the checkpoints received so far, in order, and confirms each to the child."""
        try:
            while self._checkpoints:
                head, body = self._checkpoints.popleft()
                outputs = split(head["lengths"], body)
                offer = self._events.offer_all()
                saved = write.checkpoint(
                    *self.claim.key,
                    head,
                    outputs,
                    self._latest_usage,
                    self._max_events,
                    offer.events,
                )
                answer = await writer.write(saved)
                self._events.confirm(offer.last)
                if answer == "lost":
                    self.stop(Stopping.LOST)
                    return
                stored = {"kind": "stored", "token": self.wire_key, "number": head["number"]}
                pool.send(self, stored)
                if answer == "cancel":
                    self.stop(Stopping.CANCEL)
        except WriteRefused:
            self._end_at_once(pool, Outcome("unsaved", reason="The store refused the outputs."))
        except Exception:
            log.exception("checkpoint_broke", **self.names())
            self._end_at_once(pool, Outcome("died", reason=OWN_ERROR))

    def _end_at_once(self, pool: Pool, outcome: Outcome) -> None:
        self.set_outcome(outcome)
        pool.end(self)

    def _latest_usage(self) -> str:
        return self.used

    # 4. Calls from the worker and the pool.

    def stop(self, why: Stopping) -> None:
        """Requests the end of the attempt: the flow gets its grace, then it is ended by force.

        May be called repeatedly. The first reason stands, but `LOST` overrides every other: then
        nothing may be written any more, and there is no grace.
        """
        if self.concluded or (self.stopping and why is not Stopping.LOST):
            return
        self.stopping = why
        self._wake_up()

    def listen(self) -> None:
        """Tells the child that somebody follows the execution, so that it shows what models answer
        as it comes.
        """
        if not self.listened:
            self.listened = True
            if self._listen:
                self._listen()

    @property
    def _is_lost(self) -> bool:
        return self.stopping is Stopping.LOST

    def on_message(self, head: Mapping[str, Any], body: bytes) -> None:
        """Takes a message that the child sends while the flow runs. Raises `KeyError` if a field
        is missing.
        """
        if head["kind"] == "progress":
            self.progress = head["progress"]
        elif head["kind"] == "used":
            self.usage = head["usage"]
            self.used = self.usage
        elif head["kind"] == "events":
            self._events.add(body.decode().split("\n"))
        elif head["kind"] == "checkpoint":
            # It brings progress and usage to the store, so no heartbeat has to.
            self.progress = ""
            self.usage = ""
            self.used = head["usage"]
            self._checkpoints.append((head, body))
            if self._save and (self._saving is None or self._saving.done()):
                self._saving = asyncio.ensure_future(self._save())

    def set_outcome(self, outcome: Outcome, used: str | None = None) -> None:
        """Sets how the run ended, as its child says or its child's death shows. The first call
        counts: a process that is killed after its last message has not died of the run.
        """
        if not self._outcome:
            self.used = self.used if used is None else used
            self._outcome = outcome
            self._wake_up()

    def next_beat(self, events_bytes: int = 0) -> Beat:
        """Returns the attempt's next report for the heartbeat, numbered: a report that the network
        delivers late is recognised by its number. It has about so many bytes of events.
        """
        self._reports += 1
        events, last = self._events.offer(events_bytes) if events_bytes else NOTHING
        return Beat(*self.claim.key, self._reports, self.progress, self.usage, events, last)

    @property
    def has_news(self) -> bool:
        """Whether a heartbeat has something to store."""
        return bool(self.progress or self.usage or self._events)

    def beat_stored(self, beat: Beat) -> None:
        """Forgets what this report has stored. What has changed since goes with the next one."""
        self.progress = "" if self.progress == beat.progress else self.progress
        self.usage = "" if self.usage == beat.usage else self.usage
        self._events.confirm(beat.last_event)

    def names(self) -> dict[str, Any]:
        """The fields that every log line about this attempt carries."""
        claim = self.claim
        names = {
            "execution_id": claim.id,
            "attempt": claim.number,
            "tenant": claim.tenant,
            "request_id": claim.request_id,
        }
        return {**names, "trace_id": trace_id(self._traceparent)} if self._traceparent else names


class _StoppedBefore(Exception):
    """The attempt must end before its flow was started."""

    def __init__(self, outcome: Outcome):
        super().__init__(outcome.reason)
        self.outcome = outcome
