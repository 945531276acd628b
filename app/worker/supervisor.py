"""Keeps the child processes of one pool alive: starts them, and replaces them when they are gone.

`pool` makes one, takes slots of its children, and calls `retire` for a child that needs a
successor. Nothing here talks to the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import structlog

from app.worker import protocol
from app.worker.attempt import Attempt
from app.worker.child import ChildConfig
from app.worker.child_process import ChildProcess
from app.worker.ending import Outcome
from app.worker.forkserver import CannotFork, Forkserver
from app.worker.hang_watch import MAX_SUSPECTS
from app.worker.orphans import OrphanSweeper

RESPAWN_SECONDS = 0.5
"""The first pause before a child is started again that could not start, or died before it was
ready. Whatever stopped it may stop the next one, so the pause doubles.
"""

MAX_RESPAWN_SECONDS = 2.0
"""The longest such pause: a machine that is full for a moment must not cost more than this."""

READY_SECONDS = 30.0
"""A child that is not ready by then is replaced."""

OnMessage = Callable[[ChildProcess, protocol.Head, bytes], None]

log = structlog.get_logger(__name__)


class Supervisor:
    """Starts and replaces children: `children` has the living ones. `config` is for the next one.

    The supervisor calls `on_message` with every message of a child, and `on_change` when a child
    was started or is gone.
    """

    def __init__(
        self,
        config: ChildConfig,
        forkserver: Forkserver,
        orphans: OrphanSweeper,
        on_message: OnMessage,
        on_change: Callable[[], None],
    ):
        self.config = config
        self.children: list[ChildProcess] = []
        self.closed = False
        self._forkserver = forkserver
        self._orphans = orphans
        self._on_message = on_message
        self._on_change = on_change
        self._tasks: set[asyncio.Task[None]] = set()

    def keep_one(self) -> None:
        """Starts a child and, whenever it dies, the next one."""
        self._spawn(asyncio.ensure_future(self._keep()))

    async def start_extra(self, attempt: Attempt) -> ChildProcess | None:
        """Starts a child for this attempt alone; None if none can be started now. It gets nothing
        else, and no successor.
        """
        child = await self._start(replace(self.config, slots=1))
        if child is None:
            return None
        child.is_extra = True
        child.retiring = True
        child.runs = 1
        child.attempts[attempt.wire_key] = attempt
        self._spawn(asyncio.ensure_future(self._serve(child)))
        return child

    def retire(self, child: ChildProcess, why: str) -> None:
        """Gives the child nothing new and starts its successor. The child is killed when its last
        attempt has ended. Calls after the first do nothing.
        """
        if not child.retiring:
            stuck = child.stuck_threads
            log.info("child_retired", pid=child.pid, why=why, runs=child.runs, stuck=stuck)
            child.retiring = True
            self.keep_one()
            if not child.attempts:
                child.kill()

    async def close(self) -> None:
        """Kills every child. Returns when they are dead and their attempts have their outcomes."""
        self.closed = True
        for child in self.children:
            child.kill()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self) -> None:
        """Keeps one child alive until it has a successor, or the pool is closed."""
        pause_seconds = RESPAWN_SECONDS
        while not self.closed:
            child = await self._start(self.config)
            if child is not None:
                try:
                    await self._serve(child)
                except Exception:
                    log.exception("child_broke", pid=child.pid)
                    child.kill()
                if child.retiring or self.closed:
                    return
                # One that was ready died of its flow, not of the machine: its slots are needed now.
                if child.ready:
                    pause_seconds = RESPAWN_SECONDS
                    continue
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MAX_RESPAWN_SECONDS)

    async def _start(self, config: ChildConfig) -> ChildProcess | None:
        try:
            return await ChildProcess.start(self._forkserver, config)
        except CannotFork as error:
            log.warning("child_not_started", reason=str(error))
        except Exception:
            log.exception("child_not_started")
        return None

    async def _serve(self, child: ChildProcess) -> None:
        """Passes messages on until the child is dead, then gives its attempts their outcomes."""
        self.children.append(child)
        if self.closed:
            child.kill()
        late = asyncio.get_running_loop().call_later(READY_SECONDS, self._kill_if_not_ready, child)
        try:
            await child.listen(partial(self._on_message, child))
        finally:
            late.cancel()
            self.children.remove(child)
            died = _outcome_of_death(child)
            for key, attempt in child.attempts.items():
                outcome, used = child.final_outcomes.get(key, (died, None))
                attempt.set_outcome(outcome, used)
            self._on_change()
            self._orphans.child_died()
        # A death that this worker brought about is no news. A retiring child is killed when it is
        # idle; an extra one is always retiring, so its own death must be logged all the same.
        if not (self.closed or child.killed or (child.retiring and not child.is_extra)):
            attempts = len(child.attempts)
            log.warning("child_died", pid=child.pid, how=child.death(), attempts=attempts)

    def _kill_if_not_ready(self, child: ChildProcess) -> None:
        if not child.ready:
            log.warning("child_not_ready", pid=child.pid, seconds=READY_SECONDS)
            child.kill()


def _outcome_of_death(child: ChildProcess) -> Outcome:
    """The outcome of each run in a dead child. If it had several, any of them may be the cause."""
    if not child.ready:
        return Outcome("unstarted", reason=child.death())
    kind: Literal["died", "suspected", "disturbed"] = "died"
    if child.slots > 1 and child.run_count > 1:
        kind = "suspected" if len(child.attempts) <= MAX_SUSPECTS else "disturbed"
    return Outcome(kind, reason=child.death())
