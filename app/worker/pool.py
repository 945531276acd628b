"""Gives attempts a slot in a child process, and takes the children's messages. Used by `worker`.

There are two shapes: a pool of processes has many children with one slot each, a pool of threads
has one child with many slots. `supervisor` keeps the children alive, `hang_watch` ends those that
hang. Nothing here talks to the store.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from app.catalog.model import Catalog
from app.store.counters import Reports
from app.worker import protocol
from app.worker.attempt import OWN_ERROR, Attempt
from app.worker.bulkhead import Bulkhead
from app.worker.child import ChildConfig
from app.worker.child_process import ChildProcess
from app.worker.ending import Outcome
from app.worker.forkserver import Forkserver
from app.worker.hang_watch import HangWatch
from app.worker.orphans import OrphanSweeper
from app.worker.supervisor import Supervisor

FULL_SECONDS = 1.0
"""How long a child gets nothing new after it could not start another thread."""

STUCK_SHARE = 0.25
"""A child is replaced when more threads than this share of its slots do not end."""

MAX_REASON_CHARS = 200
"""A reason comes from the child, where a flow may have written anything into it."""

log = structlog.get_logger(__name__)


class Pool:
    """The slots of `size` children. The event `free` is set while there is a free slot, `changed`
    whenever the number of slots may have changed.
    """

    def __init__(
        self,
        config: ChildConfig,
        size: int,
        forkserver: Forkserver,
        orphans: OrphanSweeper,
        bulkhead: Bulkhead | None = None,
    ):
        self._settings = config.settings
        self._has_threads = config.slots > 1
        self._size = size
        self.bulkhead = bulkhead or Bulkhead()
        self.free = asyncio.Event()
        self.changed = asyncio.Event()
        self.counted = Reports()
        self._suspended = False
        self._supervisor = Supervisor(
            config, forkserver, orphans, self._on_message, self._note_free_slots
        )
        self._children = self._supervisor.children
        self._hang_watch = HangWatch(
            self._children,
            self._settings.child_hung_seconds,
            self._supervisor.retire,
            self._note_free_slots,
        )

    @property
    def slots(self) -> int:
        """How many attempts can run at once now, in the children that are ready."""
        return sum(
            child.slots
            for child in self._children
            if child.ready and not child.gone and not child.retiring
        )

    @property
    def free_slots(self) -> int:
        return sum(child.free_slots for child in self._children)

    # Slots.

    def acquire(self, attempt: Attempt) -> ChildProcess | None:
        """Takes a slot for an attempt; None if a child died and no slot is left."""
        # The emptiest child first; among equals the one with the fewest runs, so that a flow that
        # needs a fresh process finds one.
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
        """Starts an extra process for this attempt; None if none can be started now."""
        return await self._supervisor.start_extra(attempt)

    def release(self, attempt: Attempt) -> None:
        """Gives back the slot of an attempt that was not sent to its child."""
        if child := self._child_of(attempt):
            del child.attempts[attempt.wire_key]
            self._recycle(child)
            self._note_free_slots()

    def end(self, attempt: Attempt) -> None:
        """Ends an attempt by force. A process of its own is killed; how it died is the outcome.

        A thread cannot be killed. It is abandoned as soon as its process has shown that it answers;
        a process that does not answer is ended by `hang_watch`, with all that runs in it.
        """
        child = self._child_of(attempt)
        if child is None:
            return
        if child.slots == 1:
            child.kill()
        elif attempt.wire_key not in child.to_abandon:
            child.to_abandon[attempt.wire_key] = child.ask()

    def _abandon(self, child: ChildProcess, attempt: Attempt) -> None:
        """Ignores the thread of an attempt from now on. Its slot stays taken until it ends; with
        too many such threads the process is replaced.
        """
        del child.attempts[attempt.wire_key]
        child.to_abandon.pop(attempt.wire_key, None)
        child.stuck_threads += 1
        attempt.set_outcome(Outcome("stopped"))
        self._recycle(child)
        self._note_free_slots()

    def send(self, attempt: Attempt, head: Mapping[str, Any]) -> None:
        """Sends a message to the child that runs an attempt, if there is one."""
        if child := self._child_of(attempt):
            child.send(head)

    def _child_of(self, attempt: Attempt) -> ChildProcess | None:
        return next((child for child in self._children if attempt.wire_key in child.attempts), None)

    def _note_free_slots(self) -> None:
        if self.free_slots:
            self.free.set()
        else:
            self.free.clear()
        self.changed.set()

    # All children at once.

    def open(self) -> None:
        """Starts the children. Their slots count as free when they say that they are ready."""
        for _ in range(self._size):
            self._supervisor.keep_one()

    def renew(self, catalog: Catalog) -> None:
        """Gives new attempts to new children, which know this catalog and have loaded no flow's
        code. The old children finish what they run.
        """
        self._supervisor.config = replace(self._supervisor.config, catalog=catalog)
        for child in [] if self._supervisor.closed else list(self._children):
            self._supervisor.retire(child, "reload")
        self._note_free_slots()

    def say_alive(self) -> None:
        """Tells the children that their worker lives and holds its leases. Children that do not
        hear this for too long end themselves.
        """
        for child in self._children:
            child.ask()

    async def watch(self) -> None:
        """Ends children that hang, until cancelled. Returns at once in a pool of processes."""
        if self._has_threads:
            await self._hang_watch.run()

    def suspend(self) -> None:
        """Freezes all children until `resume`, because nobody knows whether their leases hold."""
        if not self._suspended:
            self._suspended = self._hang_watch.paused = True
            log.warning("children_suspended")
            for child in self._children:
                child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `suspend`."""
        if self._suspended:
            self._suspended = self._hang_watch.paused = False
            log.warning("children_resumed")
            for child in self._children:
                child.liveness.note_answer()
                # Sent before the child wakes: otherwise it would take the silence of its sleep for
                # its worker's death, and end itself.
                child.ask()
                child.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """Kills every child. Returns when they are dead and their attempts have their outcomes."""
        await self._supervisor.close()

    # Messages of a child.

    def _on_message(self, child: ChildProcess, head: protocol.Head, body: bytes) -> None:
        """Takes a message. If it makes no sense, only the attempt that it is about ends."""
        try:
            self._dispatch(child, head, body)
        except Exception:
            log.exception("message_unreadable", pid=child.pid, kind=str(head.get("kind"))[:40])
            attempt = child.attempts.get(str(head.get("token")))
            if attempt is not None:
                attempt.set_outcome(Outcome("died", reason=OWN_ERROR))
                if child.slots == 1:
                    child.kill()
                else:
                    self._abandon(child, attempt)
                    if head.get("kind") == "ended":
                        child.stuck_threads -= 1  # its thread is free, whatever else it said
        self._note_free_slots()

    def _dispatch(self, child: ChildProcess, head: protocol.Head, body: bytes) -> None:
        if head["kind"] == "ready":
            child.begin(int(head["pid"]), int(head["stacks"]))
        elif head["kind"] == "counted":
            self.counted.add(head["counts"])
        elif head["kind"] == "ended":
            self._on_ended(child, head, body)
        elif head["kind"] == "unstarted":
            self._on_unstarted(child, head)
        elif head["kind"] == "alive":
            self._on_alive(child, int(head["number"]))
        elif head["kind"] == "held":
            self._hang_watch.end_held(child, str(head["id"]), [str(place) for place in head["at"]])
        elif attempt := child.attempts.get(head["token"]):
            attempt.on_message(head, body)

    def _on_alive(self, child: ChildProcess, number: int) -> None:
        """The child answers, so attempts that were waiting for this can be abandoned."""
        for key, question in list(child.to_abandon.items()):
            if question <= number:
                del child.to_abandon[key]
                if attempt := child.attempts.get(key):
                    self._abandon(child, attempt)

    def _on_ended(self, child: ChildProcess, head: protocol.Head, body: bytes) -> None:
        leaked, memory_bytes = int(head["leaked_threads"]), int(head["memory_bytes"])
        self.counted.add(head["counts"])
        attempt = child.attempts.get(head["token"])
        if attempt is None:
            child.stuck_threads -= 1  # an abandoned thread has ended
        else:
            outcome = Outcome.from_message(head, body)
            # An execution is over only when nothing of it runs any more: threads that did not stop
            # are ended with their process, and the outcome counts from then on.
            if leaked and child.slots == 1:
                child.final_outcomes[attempt.wire_key] = (outcome, head["usage"])
                child.kill()
                return
            del child.attempts[attempt.wire_key]
            child.leaked_threads += leaked
            attempt.set_outcome(outcome, head["usage"])
        self._recycle(child, memory_bytes, head.get("unfit"))

    def _on_unstarted(self, child: ChildProcess, head: protocol.Head) -> None:
        """The child could not start a run, for example for lack of a thread. Nothing of it ran."""
        if attempt := child.attempts.pop(head["token"], None):
            attempt.set_outcome(Outcome("unstarted", reason=str(head.get("reason"))))
        else:
            child.stuck_threads -= 1  # it was abandoned meanwhile, and has no thread either
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
        """Called after each run: replaces the child if there is a reason to."""
        self._retire_if_stuck(child)
        if unfit:
            self._supervisor.retire(child, str(unfit)[:MAX_REASON_CHARS])
        elif memory_bytes > self._settings.process_memory_limit:
            self._supervisor.retire(child, "memory")
        elif child.slots == 1 and child.runs >= self._settings.runs_per_process:
            self._supervisor.retire(child, "runs")
        if child.retiring and not child.attempts:
            child.kill()

    def _retire_if_stuck(self, child: ChildProcess) -> None:
        if child.stuck_threads + child.leaked_threads > child.slots * STUCK_SHARE:
            self._supervisor.retire(child, "stuck_threads")
