"""The child processes of a worker: started warm, given attempts, watched, replaced.

Two shapes of one thing: a pool of processes has many children with one slot each, a pool of threads
has one child with many slots. Nothing here talks to the store.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import structlog

from app.catalog.model import Catalog
from app.store.counters import Reports
from app.worker import hung, protocol
from app.worker.attempt import OWN_ERROR, Attempt
from app.worker.bulkhead import Bulkhead
from app.worker.child import ChildConfig
from app.worker.child_process import LONGEST_LOOK_SECONDS, ChildProcess
from app.worker.ending import Outcome
from app.worker.forkserver import CannotFork, Forkserver
from app.worker.strays import Strays
from app.worker.threads_of import threads_of

RESPAWN_SECONDS, LAST_RESPAWN_SECONDS = 0.5, 2.0
"""The pauses before a child is started again that could not be started, or died before it was
ready: what kept it from living may keep the next one, but a limit that is reached for a moment must
not cost more than that.
"""

READY_SECONDS = 30.0
"""A child that is not ready by then is replaced."""

FULL_SECONDS = 1.0
"""How long a child gets nothing new that could not start one more thread."""

WATCH_SECONDS = LONGEST_LOOK_SECONDS / 2

MOST_TOLD = 20
"""Runs that are named in the log when their process hangs."""

STUCK_SHARE = 0.25
"""A child is replaced when it has more threads that do not end than this share of its slots."""

log = structlog.get_logger(__name__)


class Pool:
    """Keeps `size` children alive. `free` is set while there is a free slot, `changed` when slots
    come or go.
    """

    def __init__(
        self,
        config: ChildConfig,
        size: int,
        forkserver: Forkserver,
        strays: Strays,
        bulkhead: Bulkhead | None = None,
    ):
        self._config, self._size = config, size
        self._forkserver, self._strays = forkserver, strays
        self.bulkhead = bulkhead or Bulkhead()
        self._children: list[ChildProcess] = []
        self._keepers: set[asyncio.Task[None]] = set()
        self.free, self.changed = asyncio.Event(), asyncio.Event()
        self.counted = Reports()
        self._suspended = self._closed = False

    @property
    def slots(self) -> int:
        """How many attempts can run at once just now: only what exists, and is ready, counts."""
        return sum(
            child.slots
            for child in self._children
            if child.ready and not child.gone and not child.retiring
        )

    @property
    def free_slots(self) -> int:
        return sum(child.free_slots for child in self._children)

    def open(self) -> None:
        """Starts the children. They count as free when they say that they are ready."""
        for _ in range(self._size):
            self._keep_one()

    def acquire(self, attempt: Attempt) -> ChildProcess | None:
        """A slot for an attempt; None if a child died and none is left.

        Of the child with the most free ones and, among equals, the fewest runs: what wants a fresh
        process finds one.
        """
        child = max(
            self._children,
            key=lambda candidate: (candidate.free_slots, -candidate.runs),
            default=None,
        )
        if child is None or not child.free_slots:
            return None
        child.attempts[attempt.wire_key] = attempt
        child.runs += 1
        self._note_free_slots()
        return child

    async def acquire_alone(self, attempt: Attempt) -> ChildProcess | None:
        """A process for this attempt and nothing else, beside the others; None where none can be
        started now.
        """
        child = await self._start(replace(self._config, slots=1))
        if child is None:
            return None
        child.is_extra = child.retiring = True
        child.runs = 1
        child.attempts[attempt.wire_key] = attempt
        self._keepers.add(serving := asyncio.ensure_future(self._serve(child)))
        serving.add_done_callback(self._keepers.discard)
        return child

    def release(self, attempt: Attempt) -> None:
        """Gives back the slot of an attempt of which its child was told nothing."""
        if child := self._child_of(attempt):
            del child.attempts[attempt.wire_key]
            self._recycle(child)
            self._note_free_slots()

    def end(self, attempt: Attempt) -> None:
        """Ends an attempt by force. If its process is its own, that is killed; how it died is the
        outcome.

        One of many threads cannot be ended. It is abandoned, once its process has shown that it
        answers: what it still says is not heard, its slot stays taken until it ends, and with too
        many of these the process is replaced. A process that does not answer hangs, and is ended
        with all that runs in it: see `watch`.
        """
        child = self._child_of(attempt)
        if child is None:
            return
        if child.slots == 1:
            child.kill()
        elif attempt.wire_key not in child.ending:
            child.ending[attempt.wire_key] = child.ask()

    def _abandon(self, child: ChildProcess, attempt: Attempt) -> None:
        del child.attempts[attempt.wire_key]
        child.ending.pop(attempt.wire_key, None)
        child.stuck += 1
        attempt.hear_end(Outcome("stopped"))
        self._retire_if_stuck(child)
        self._note_free_slots()

    def send(self, attempt: Attempt, head: Mapping[str, Any]) -> None:
        """A message to the child that runs an attempt, if there is one."""
        if child := self._child_of(attempt):
            child.send(head)

    def renew(self, catalog: Catalog) -> None:
        """From now on attempts are given to new children, which know this catalog and have loaded
        no flow's code.

        The old ones end what they run, undisturbed.
        """
        self._config = replace(self._config, catalog=catalog)
        for child in [] if self._closed else list(self._children):
            self._retire(child, "reload")
        self._note_free_slots()

    def say_alive(self) -> None:
        """Tells the children that their worker lives and holds its leases; without it they end
        themselves.
        """
        for child in self._children:
            child.ask()

    async def watch(self) -> None:
        """Replaces children of threads that do not answer, those with a single run among them.

        Works for life. In a pool of processes no run harms another one: each has its timeout.
        """
        while self._config.slots > 1:
            await asyncio.sleep(WATCH_SECONDS)
            for child in [] if self._suspended else list(self._children):
                if child.ready and not child.killed:
                    await self._look_at(child)

    async def _look_at(self, child: ChildProcess) -> None:
        pulse = child.pulse
        if not pulse.is_waiting:
            return
        was_quiet = pulse.is_quiet
        try:
            threads = await asyncio.to_thread(threads_of, child.flows_pid)
        except RuntimeError:  # no thread can be started just now
            threads = threads_of(child.flows_pid)
        if self._suspended or child.gone:
            return
        pulse.look(asyncio.get_running_loop().time(), threads)
        if pulse.is_quiet != was_quiet:
            self._note_free_slots()
        if pulse.silent_seconds >= self._config.settings.child_hung_seconds:
            await self._end_hung(child)

    async def _end_hung(self, child: ChildProcess) -> None:
        """Its attempts hear what becomes of them when it is dead: until then, they run."""
        self._retire(child, "hung")
        places = await hung.stack(child.flows_pid, child.stacks_fd, child.pulse.holders())
        if not child.pulse.is_quiet:
            return  # it has answered meanwhile: it ends what it runs, and gets nothing new
        runs = [attempt.claim.id for attempt in child.attempts.values()]
        seconds = round(child.pulse.silent_seconds, 1)
        log.error(
            "child_hung",
            pid=child.flows_pid,
            seconds=seconds,
            runs=runs[:MOST_TOLD],
            count=len(runs),
            at=places,
        )
        limit_seconds = self._config.settings.child_hung_seconds
        for key, outcome in hung.outcomes(child, limit_seconds, places).items():
            child.final.setdefault(key, (outcome, None))
        child.kill()

    def suspend(self) -> None:
        """Freezes all children where they are, as long as nobody knows whether their leases still
        hold.
        """
        if not self._suspended:
            self._suspended = True
            log.warning("children_suspended")
            for child in self._children:
                child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `suspend`. The word that their worker lives is sent first: a child that wakes
        without it would take the silence of its sleep for its worker's death.
        """
        if self._suspended:
            self._suspended = False
            log.warning("children_resumed")
            for child in self._children:
                child.pulse.heard()
                child.ask()
                child.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """Kills every child, and waits until they are gone and their attempts have heard of it."""
        self._closed = True
        for child in self._children:
            child.kill()
        if self._keepers:
            await asyncio.wait(self._keepers)

    # The life of a child.

    def _keep_one(self) -> None:
        keeper = asyncio.ensure_future(self._keep())
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    async def _keep(self) -> None:
        """Keeps one child alive: starts it, serves it until it is gone, starts the next. Ends when
        it has a successor, or the pool is closed.
        """
        pause_seconds = RESPAWN_SECONDS
        while not self._closed:
            child = await self._start(self._config)
            if child is not None:
                try:
                    await self._serve(child)
                except Exception:
                    log.exception("child_broke", pid=child.pid)
                    child.kill()
                if child.retiring or self._closed:
                    return
                if child.ready:
                    pause_seconds = RESPAWN_SECONDS
                    continue
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LAST_RESPAWN_SECONDS)

    async def _start(self, config: ChildConfig) -> ChildProcess | None:
        try:
            return await ChildProcess.start(self._forkserver, config)
        except CannotFork as error:
            log.warning("child_not_started", reason=str(error))
        except Exception:
            log.exception("child_not_started")
        return None

    async def _serve(self, child: ChildProcess) -> None:
        self._children.append(child)
        if self._closed:
            child.kill()
        late = asyncio.get_running_loop().call_later(READY_SECONDS, self._kill_if_not_ready, child)
        try:
            await child.listen(partial(self._hear, child))
        finally:
            late.cancel()
            self._children.remove(child)
            died = self._how_it_died(child)
            for key, attempt in child.attempts.items():
                outcome, used = child.final.get(key, (died, None))
                attempt.hear_end(outcome, used)
            self._note_free_slots()
            self._strays.child_died()
        if not (self._closed or child.killed or (child.retiring and not child.is_extra)):
            log.warning(
                "child_died", pid=child.pid, how=child.death(), attempts=len(child.attempts)
            )

    def _how_it_died(self, child: ChildProcess) -> Outcome:
        """The outcome of what ran in it. Where several did, nobody knows which of them is to blame."""
        if not child.ready:
            return Outcome("unstarted", reason=child.death())
        kind: Literal["died", "suspected", "disturbed"] = "died"
        if child.slots > 1 and len(child.attempts) + child.stuck + child.leaked > 1:
            kind = "suspected" if len(child.attempts) <= hung.MOST_SUSPECTS else "disturbed"
        return Outcome(kind, reason=child.death())

    def _kill_if_not_ready(self, child: ChildProcess) -> None:
        if not child.ready:
            log.warning("child_not_ready", pid=child.pid, seconds=READY_SECONDS)
            child.kill()

    # What a child says.

    def _hear(self, child: ChildProcess, head: protocol.Head, body: bytes) -> None:
        """A message that makes no sense ends the attempt that it is about, and no other."""
        try:
            self._take(child, head, body)
        except Exception:
            log.exception("message_unreadable", pid=child.pid, kind=str(head.get("kind"))[:40])
            attempt = child.attempts.get(str(head.get("token")))
            if attempt is not None:
                attempt.hear_end(Outcome("died", reason=OWN_ERROR))
                if child.slots == 1:
                    child.kill()
                else:
                    self._abandon(child, attempt)
                    child.stuck -= (
                        head.get("kind") == "ended"
                    )  # it runs no more, whatever it has said of that
        self._note_free_slots()

    def _take(self, child: ChildProcess, head: protocol.Head, body: bytes) -> None:
        if head["kind"] == "ready":
            child.begin(int(head["pid"]), int(head["stacks"]))
        elif head["kind"] == "counted":
            self.counted.add(head["counts"])
        elif head["kind"] == "ended":
            self._take_end(child, head, body)
        elif head["kind"] == "unstarted":
            self._take_unstarted(child, head)
        elif head["kind"] == "alive":
            self._take_answer(child, int(head["number"]))
        elif attempt := child.attempts.get(head["token"]):
            attempt.hear(head, body)

    def _take_answer(self, child: ChildProcess, number: int) -> None:
        """It listens, so what was to be ended when this was asked can be abandoned."""
        for key, question in list(child.ending.items()):
            if question <= number:
                del child.ending[key]
                if attempt := child.attempts.get(key):
                    self._abandon(child, attempt)

    def _take_end(self, child: ChildProcess, head: protocol.Head, body: bytes) -> None:
        """An execution is over when nothing of it runs: steps that did not stop end with their
        process.
        """
        leaked, memory_bytes = int(head["left_behind"]), int(head["memory_bytes"])
        self.counted.add(head["counts"])
        attempt = child.attempts.get(head["token"])
        if attempt is None:
            child.stuck -= 1  # an abandoned one came back
        else:
            outcome = Outcome.from_message(head, body)
            if leaked and child.slots == 1:
                child.final[attempt.wire_key] = (outcome, head["usage"])
                child.kill()
                return
            del child.attempts[attempt.wire_key]
            child.leaked += leaked
            attempt.hear_end(outcome, head["usage"])
        self._recycle(child, memory_bytes, head.get("unfit"))

    def _take_unstarted(self, child: ChildProcess, head: protocol.Head) -> None:
        """The child could not start what it was given, a thread for it, say: nothing of it ran."""
        if attempt := child.attempts.pop(head["token"], None):
            attempt.hear_end(Outcome("unstarted", reason=str(head.get("reason"))))
        else:
            child.stuck -= 1  # an abandoned one: it does not run either
        child.full = True
        asyncio.get_running_loop().call_later(FULL_SECONDS, self._no_longer_full, child)
        self._recycle(child, unfit=head.get("unfit"))

    def _no_longer_full(self, child: ChildProcess) -> None:
        child.full = False
        self._note_free_slots()

    # When a child is replaced.

    def _recycle(
        self, child: ChildProcess, memory_bytes: int = 0, unfit: str | None = None
    ) -> None:
        settings = self._config.settings
        self._retire_if_stuck(child)
        if unfit:
            self._retire(child, str(unfit)[:200])
        elif memory_bytes > settings.process_memory_limit:
            self._retire(child, "memory")
        elif child.slots == 1 and child.runs >= settings.runs_per_process:
            self._retire(child, "runs")
        if child.retiring and not child.attempts:
            child.kill()

    def _retire_if_stuck(self, child: ChildProcess) -> None:
        if child.stuck + child.leaked > child.slots * STUCK_SHARE:
            self._retire(child, "stuck_threads")

    def _retire(self, child: ChildProcess, why: str) -> None:
        """Gives the child nothing new, and starts its successor; it is killed when its last attempt
        ended.
        """
        if not child.retiring:
            log.info("child_retired", pid=child.pid, why=why, runs=child.runs, stuck=child.stuck)
            child.retiring = True
            self._keep_one()
            if not child.attempts:
                child.kill()

    def _child_of(self, attempt: Attempt) -> ChildProcess | None:
        return next((child for child in self._children if attempt.wire_key in child.attempts), None)

    def _note_free_slots(self) -> None:
        if self.free_slots:
            self.free.set()
        else:
            self.free.clear()
        self.changed.set()
