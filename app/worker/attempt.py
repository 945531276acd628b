"""One attempt at an execution, from its claim to the write that ends it: the coroutine
`Attempt.run`.

The worker starts it and may stop it; a child process runs its flow and says what becomes of it
(`hear`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from app.domain.errors import StoreRefused, StoreUnavailable
from app.settings import Settings
from app.telemetry.tracing import Tracing, trace_id
from app.worker import spans
from app.worker.attempt_store import AttemptStore, Beat
from app.worker.bulkhead import AWAY_SECONDS
from app.worker.claim import Claim
from app.worker.ending import Ending, Finish, Outcome, Stopping, decide, failure
from app.worker.outage import RETRY_STORE_SECONDS, refuses_everybody
from app.worker.protocol import encode, join, split
from app.worker.write import Write
from app.worker.writer import PAUSES_SECONDS, Writer, WriteRefused

if TYPE_CHECKING:
    from app.worker.child_process import ChildProcess
    from app.worker.pool import Pool

TIMEOUT_GRACE_SECONDS = 0.5

MANY_STEPS = 1000
"""A message with more of them takes more than a millisecond or two to put together."""

T = TypeVar("T")

OWN_ERROR = "The worker met an error of its own."

log = structlog.get_logger(__name__)


class Attempt:
    """Used in one event loop.

    `progress` and `usage` are the latest that its child reported, as JSON; `""` once they are
    stored. `used` is the latest usage, stored or not. `concluded`: how it ended is known, and on
    its way to the store.
    """

    def __init__(self, claim: Claim, settings: Settings, tracing: Tracing):
        self.claim = claim
        self.progress = self.usage = self.used = ""
        self.concluded = False
        self.stopping: Stopping | None = None
        self._cancel_grace_seconds = settings.cancel_grace
        self._span = spans.begin(tracing, claim)
        self._traceparent = self._span.traceparent if self._span else claim.traceparent
        self.wire_key = "/".join(claim.key)
        """What names it in messages between its worker and its child: the execution and the token.
        """
        self._outcome: Outcome | None = None
        self._news: asyncio.Future[None] | None = None
        self._checkpoints: deque[tuple[Mapping[str, Any], bytes]] = deque()
        self._saver: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._reports = 0

    async def run(
        self, child: ChildProcess | None, pool: Pool, store: AttemptStore, writer: Writer
    ) -> None:
        """Runs it to its end, in the child that has a slot for it, and writes that. An error in
        here ends this attempt alone, as lost.
        """
        self._saver = partial(self._save_checkpoints, pool, writer)
        try:
            try:
                outcome = await self._run_in(child, pool, store)
            except Exception:
                log.exception("attempt_broke", **self.names())
                pool.end(self)
                outcome = Outcome("died", reason=OWN_ERROR)
            self.concluded = True
            ending = decide(self.claim, self.stopping, outcome, random.random())  # noqa: S311  no secret
            if ending and self._saving:
                await self._saving
            ending, status = await self._write_end(ending, writer)
        finally:
            if self._saving:
                self._saving.cancel()
        spans.end(self._span, ending, status)
        how = ending.arguments[0] if ending else "lost"
        log.info("attempt_ended", **self.names(), how=how, status=status)

    async def _run_in(self, child: ChildProcess | None, pool: Pool, store: AttemptStore) -> Outcome:
        if self.claim.alone:
            return await self._run_alone(pool, store)
        if child is None:
            return Outcome("unstarted", reason="No process has a free slot any more.")
        return await self._run_with(child, pool, store)

    async def _run_alone(self, pool: Pool, store: AttemptStore) -> Outcome:
        """In a process of its own, when it is its turn: see `bulkhead`."""
        if pool.bulkhead.is_crowded:
            return Outcome("unstarted", retry_after_seconds=AWAY_SECONDS)
        places = 0
        try:
            places = await self._unless_stopped(pool.bulkhead.enter(self.claim.sole))
            child = await pool.acquire_alone(self)
            if child is None:
                return Outcome("unstarted", retry_after_seconds=AWAY_SECONDS)
            return await self._run_with(child, pool, store)
        except _NotRead as error:
            return error.outcome
        finally:
            pool.bulkhead.leave(places)

    async def _run_with(self, child: ChildProcess, pool: Pool, store: AttemptStore) -> Outcome:
        try:
            steps, values = await self._saved_steps(store)
            message = await self._start_message(steps, values)
        except _NotRead as error:
            pool.release(self)
            return error.outcome
        if self._outcome:
            return Outcome("unstarted", reason="Its process ended before it was given the run.")
        child.send_message(message)
        log.info("attempt_started", **self.names())

        await self._until(lambda: bool(self._outcome or self.stopping), self.claim.timeout_seconds)
        if not self._outcome:
            self.stop(Stopping.TIMEOUT)  # unless there was another reason
            child.send({"kind": "stop", "token": self.wire_key})
            await self._until(lambda: bool(self._outcome) or self._is_lost, self._grace_seconds())
        if not self._outcome:
            pool.end(self)  # a process dies and its death is the outcome; a thread is abandoned
            await self._until(lambda: bool(self._outcome))
        assert self._outcome
        return self._outcome

    async def _until(self, happened: Callable[[], bool], seconds: float | None = None) -> None:
        """Returns when this has happened, or the time is over. Whatever becomes of an attempt wakes
        it up.
        """
        loop, over = asyncio.get_running_loop(), False

        def end() -> None:
            nonlocal over
            over = True
            self._wake_up()

        timer = None if seconds is None else loop.call_later(seconds, end)
        try:
            while not over and not happened():
                self._news = loop.create_future()
                await self._news
        finally:
            if timer:
                timer.cancel()

    def _wake_up(self) -> None:
        if self._news and not self._news.done():
            self._news.set_result(None)

    def _grace_seconds(self) -> float | None:
        """How long a flow may take to end by itself. At a shutdown its worker kills all children
        together.
        """
        graces = {
            Stopping.CANCEL: self._cancel_grace_seconds,
            Stopping.TIMEOUT: TIMEOUT_GRACE_SECONDS,
        }
        return None if self.stopping is Stopping.SHUTDOWN else graces.get(self.stopping, 0.0)  # type: ignore[arg-type]

    async def _saved_steps(self, store: AttemptStore) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What earlier attempts have stored. Raises `_NotRead` if there is a reason to stop, or it
        cannot be read.
        """
        if not self.claim.resumes:
            return {}, {}
        return await self._unless_stopped(self._read_steps(store))

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result. Raises `_NotRead` if there is a reason to stop before."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._wake_up())
        try:
            await self._until(lambda: task.done() or bool(self._outcome or self.stopping))
            if task.done():
                return task.result()
            raise _NotRead(Outcome("stopped" if self.stopping else "unstarted"))
        finally:
            task.cancel()

    async def _read_steps(self, store: AttemptStore) -> tuple[dict[str, bytes], dict[str, bytes]]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + sum(PAUSES_SECONDS)
        while True:
            try:
                return await store.read_steps(self.claim.id)
            except StoreRefused as error:
                log.error("steps_unreadable", **self.names(), error=str(error.__cause__ or error))
                raise _NotRead(
                    Outcome("unsaved", reason="The stored steps cannot be read.")
                ) from error
            except StoreUnavailable as error:
                if refuses_everybody(error) or not await store.answers():
                    deadline = loop.time() + sum(PAUSES_SECONDS)  # an outage is nobody's fault
                elif loop.time() > deadline:
                    reason = "The stored steps could not be read within a minute."
                    raise _NotRead(Outcome("unsaved", reason=reason)) from error
                await asyncio.sleep(RETRY_STORE_SECONDS)

    async def _save_checkpoints(self, pool: Pool, writer: Writer) -> None:
        """Stores the checkpoints that its child has sent so far, in order, and tells the child of
        each.
        """
        try:
            while self._checkpoints:
                head, body = self._checkpoints.popleft()
                word = await writer.write(self._checkpoint(head, body))
                if word == "lost":
                    self.stop(Stopping.LOST)
                    return
                pool.send(
                    self, {"kind": "stored", "token": self.wire_key, "number": head["number"]}
                )
                if word == "cancel":
                    self.stop(Stopping.CANCEL)
        except WriteRefused:
            self._end_at_once(pool, Outcome("unsaved", reason="The store refused the outputs."))
        except Exception:
            log.exception("checkpoint_broke", **self.names())
            self._end_at_once(pool, Outcome("died", reason=OWN_ERROR))

    def _end_at_once(self, pool: Pool, outcome: Outcome) -> None:
        self.hear_end(outcome)
        pool.end(self)

    async def _write_end(self, ending: Ending | None, writer: Writer) -> tuple[Ending | None, str]:
        """What was written, and the status of the execution now; `lost` if it is somebody else's."""
        if ending is None:
            return None, "lost"
        try:
            return ending, await writer.write(self._write(ending.script, *ending.arguments))
        except WriteRefused:
            if not (isinstance(ending, Finish) and ending.status == "completed"):
                return None, "lost"  # the lease runs out, and the reaper moves the execution on
            refused = failure(self.claim, "InvalidOutput", "The store refused the outputs.")
            return await self._write_end(refused, writer)

    # What others ask of it.

    def stop(self, why: Stopping) -> None:
        """Asks the flow to end, then ends it by force. The first reason stands, but `LOST`
        overrules every other: then nothing may be written any more, and there is no grace.
        """
        if self.concluded or (self.stopping and why is not Stopping.LOST):
            return
        self.stopping = why
        self._wake_up()

    @property
    def _is_lost(self) -> bool:
        return self.stopping is Stopping.LOST

    def hear(self, head: Mapping[str, Any], body: bytes) -> None:
        """A message of its child while the flow runs."""
        if head["kind"] == "progress":
            self.progress = head["progress"]
        elif head["kind"] == "used":
            self.usage = self.used = head["usage"]
        elif head["kind"] == "checkpoint":
            self.usage, self.used, self.progress = "", head["usage"], ""
            self._checkpoints.append((head, body))
            if self._saver and (self._saving is None or self._saving.done()):
                self._saving = asyncio.ensure_future(self._saver())

    def hear_end(self, outcome: Outcome, used: str | None = None) -> None:
        """How the run ended, as its child says or its child's death shows. The first word stands."""
        if not self._outcome:
            self.used = self.used if used is None else used
            self._outcome = outcome
            self._wake_up()

    def next_beat(self) -> Beat:
        """What is reported of it now; numbered, so that the store can tell a report that arrives
        late.
        """
        self._reports += 1
        return *self.claim.key, self._reports, self.progress, self.usage

    def beat_stored(self, beat: Beat) -> None:
        """The store has this report; what has changed since goes with the next one."""
        _, _, _, progress, usage = beat
        self.progress = "" if self.progress == progress else self.progress
        self.usage = "" if self.usage == usage else self.usage

    def names(self) -> dict[str, Any]:
        """What every log line about it has."""
        claim = self.claim
        names = {
            "execution_id": claim.id,
            "attempt": claim.number,
            "tenant": claim.tenant,
            "request_id": claim.request_id,
        }
        return {**names, "trace_id": trace_id(self._traceparent)} if self._traceparent else names

    # What it sends.

    async def _start_message(
        self, steps: Mapping[str, bytes], values: Mapping[str, bytes]
    ) -> bytes:
        """What its child is told. With many steps that takes long: then it is put together beside
        the loop.
        """
        if len(steps) + len(values) > MANY_STEPS:
            with contextlib.suppress(RuntimeError):  # no thread can be started just now
                return await self._unless_stopped(
                    asyncio.to_thread(lambda: encode(*self._start(steps, values)))
                )
        return encode(*self._start(steps, values))

    def _start(
        self, steps: Mapping[str, bytes], values: Mapping[str, bytes]
    ) -> tuple[dict[str, Any], bytes]:
        """A head and, behind the data, what earlier attempts have stored."""
        claim = self.claim
        head = {
            "kind": "start",
            "token": self.wire_key,
            "id": claim.id,
            "attempt": claim.number,
            "names": self.names(),
            "traceparent": self._traceparent,
        }
        if not claim.used_before and not claim.resumes:
            return head, claim.data
        lengths, body = join([claim.data, *steps.values(), *values.values()])
        known = {"usage": claim.used_before, "definition": claim.definition}
        return {
            **head,
            **known,
            "steps": list(steps),
            "values": list(values),
            "lengths": lengths,
        }, body

    def _checkpoint(self, head: Mapping[str, Any], body: bytes) -> Write:
        values = dict(zip(head["values"], split(head["lengths"], body), strict=True))
        counts = [len(head[name]) for name in ("records", "outcomes", "values", "dropped")]
        listed = [part for name in ("records", "outcomes") for row in head[name] for part in row]
        outputs = [part for pair in values.items() for part in pair]
        fixed = (head["number"], head["progress"], head["definition"])
        return self._write("checkpoint", *fixed, *counts, *listed, *outputs, *head["dropped"])

    def _write(self, script: str, *arguments: Any) -> Write:
        return Write(self.claim, script, arguments, lambda: self.used)


class _NotRead(Exception):
    def __init__(self, outcome: Outcome):
        super().__init__(outcome.reason)
        self.outcome = outcome
