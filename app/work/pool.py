"""The child processes of a worker: forked warm, given attempts, watched, replaced.

Two shapes of one thing: a pool of processes has many children with one slot each, a pool of threads has
one child with many slots. Nothing here talks to the store.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace

import structlog

from app.catalog.model import Catalog
from app.executions.counters import Reports
from app.work import protocol
from app.work.attempt import Attempt
from app.work.child import ChildConfig
from app.work.child_handle import ChildHandle, end_strays

RESPAWN_SECONDS = 1.0
"""The wait before a child is replaced that died before it was ready: what killed it may kill the next."""

HUNG_SHARE = 0.25
"""A child is replaced when it has more threads that do not end than this share of its slots."""

log = structlog.get_logger(__name__)


class Pool:
    """Keeps `size` children alive. The hooks are called in the event loop."""

    def __init__(
        self,
        config: ChildConfig,
        size: int,
        *,
        on_ended: Callable[[Attempt, protocol.Head, bytes], None],
        on_checkpoint: Callable[[Attempt, protocol.Head, bytes], None],
        on_died: Callable[[Attempt, str], None],
    ):
        self._config, self._size = config, size
        self._on_ended, self._on_checkpoint, self._on_died = on_ended, on_checkpoint, on_died
        self._children: list[ChildHandle] = []
        self._watchers: set[asyncio.Task[None]] = set()
        self.free = asyncio.Event()
        self.counted = Reports()
        self._suspended = self._closed = False

    @property
    def slots(self) -> int:
        """How many attempts run at once when all its children are there."""
        return self._size * self._config.slots

    @property
    def free_slots(self) -> int:
        return sum(child.free_slots for child in self._children)

    def open(self) -> None:
        """Starts the children. They count as free when they say that they are ready."""
        for _ in range(self._size):
            self._spawn()

    def place(self, attempt: Attempt) -> bool:
        """Gives an attempt to the child with the most free slots; False where a child died and none is left."""
        child = max(self._children, key=lambda each: each.free_slots, default=None)
        if child is None or not child.free_slots:
            return False
        attempt.child = child
        child.attempts[attempt.token] = attempt
        child.runs += 1
        child.send(*attempt.start_message())
        self._note_free_slots()
        return True

    def end(self, attempt: Attempt) -> bool:
        """Ends an attempt by force. True: its process dies, and `on_died` follows when it has.

        False: it is one of many threads, which can not be ended. It is abandoned: what it still says is
        not heard, its slot stays taken until it ends, and with too many of these the process is replaced.
        """
        child = attempt.child
        assert child is not None
        if child.slots == 1:
            child.kill()
            return True
        child.attempts.pop(attempt.token, None)
        child.hung += 1
        self._retire_if_hung(child)
        return False

    def renew(self, catalog: Catalog) -> None:
        """From now on attempts are given to new children, which know this catalog and have loaded no flow's code.

        The old ones end what they run, undisturbed.
        """
        self._config = replace(self._config, catalog=catalog)
        for child in [] if self._closed else list(self._children):
            self._retire(child, "reload")
        self._note_free_slots()

    def say_alive(self) -> None:
        """Tells the children that their worker lives and holds its leases; without it they end themselves."""
        for child in self._children:
            child.send({"kind": "alive"})

    def suspend(self) -> None:
        """Freezes all children where they are, as long as nobody knows whether their leases still hold."""
        if not self._suspended:
            self._suspended = True
            log.warning("children_suspended")
            for child in self._children:
                child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `suspend`; the word that their worker lives reaches them first."""
        if self._suspended:
            self._suspended = False
            log.warning("children_resumed")
            self.say_alive()
            for child in self._children:
                child.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """Kills every child and waits until they are gone. What they ran is reported by `on_died` before."""
        self._closed = True
        for child in self._children:
            child.kill()
        if self._watchers:
            await asyncio.wait(self._watchers)

    def _spawn(self) -> None:
        child = ChildHandle(self._config)
        self._children.append(child)
        watcher = asyncio.ensure_future(self._watch(child))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, child: ChildHandle) -> None:
        await child.listen(self._hear)
        self._children.remove(child)
        self._note_free_slots()
        end_strays()
        for attempt in list(child.attempts.values()):
            if attempt.token in child.last_words:
                self._on_ended(attempt, *child.last_words[attempt.token])
            else:
                self._on_died(attempt, child.death())
        if self._closed or child.retiring:
            return
        if not child.killed:
            log.warning("child_died", pid=child.pid, how=child.death(), attempts=len(child.attempts))
        if not child.ready:
            await asyncio.sleep(RESPAWN_SECONDS)
        if not self._closed:
            self._spawn()

    def _hear(self, child: ChildHandle, head: protocol.Head, body: bytes) -> None:
        if head["kind"] == "ready":
            child.ready = True
        elif head["kind"] == "counted":
            self.counted.add(head["counts"])
        elif head["kind"] == "ended":
            self._hear_the_end(child, head, body)
        elif attempt := child.attempts.get(head["token"]):
            if head["kind"] == "progress":
                attempt.progress = head["progress"]
            elif head["kind"] == "used":
                attempt.usage = attempt.used = head["usage"]
            elif head["kind"] == "checkpoint":
                self._on_checkpoint(attempt, head, body)
        self._note_free_slots()

    def _hear_the_end(self, child: ChildHandle, head: protocol.Head, body: bytes) -> None:
        """An execution is over when nothing of it runs: steps that did not stop end with their process."""
        self.counted.add(head["counts"])
        if head["left_behind"] and child.slots == 1:
            child.last_words[head["token"]] = (head, body)
            child.kill()
            return
        if attempt := child.attempts.pop(head["token"], None):
            child.left_behind += head["left_behind"]
            self._on_ended(attempt, head, body)
        else:
            child.hung -= 1  # an abandoned one came back
        self._recycle(child, head["memory_bytes"])

    def _recycle(self, child: ChildHandle, memory_bytes: int) -> None:
        settings = self._config.settings
        self._retire_if_hung(child)
        if memory_bytes > settings.process_memory_limit:
            self._retire(child, "memory")
        elif child.slots == 1 and child.runs >= settings.runs_per_process:
            self._retire(child, "runs")
        if child.retiring and not child.attempts:
            child.kill()

    def _retire_if_hung(self, child: ChildHandle) -> None:
        if child.hung + child.left_behind > child.slots * HUNG_SHARE:
            self._retire(child, "hung_threads")

    def _retire(self, child: ChildHandle, why: str) -> None:
        """Gives the child nothing new, and starts its successor; it is killed when its last attempt ended."""
        if not child.retiring:
            log.info("child_retired", pid=child.pid, why=why, runs=child.runs, hung=child.hung)
            child.retiring = True
            self._spawn()
            if not child.attempts:
                child.kill()

    def _note_free_slots(self) -> None:
        if self.free_slots:
            self.free.set()
        else:
            self.free.clear()
