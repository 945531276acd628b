"""Ends child processes that hang, and decides which of their runs is to blame. Run by `pool`.

Only processes of threads are watched: there, one flow that never releases the interpreter's lock
stops all the others, and one that blocks the event loop stops all asynchronous ones. A process with
a single slot harms no other run, and its run has a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from app.worker.child_process import MAX_CHECK_SECONDS, ChildProcess
from app.worker.ending import Outcome
from app.worker.loop_watch import flows_places
from app.worker.thread_stats import LOOP_NAME, ask_for_stack, read_thread_stats, thread_name

CHECK_SECONDS = MAX_CHECK_SECONDS / 2
"""The time between two checks. A check may count twice as much, so a late one loses nothing."""

MAX_SUSPECTS = 16
"""If no more runs than this may be to blame, each of them runs alone the next time. With more of
them that would take too long, so they run alone only after it happened twice.
"""

MAX_LOGGED_RUNS = 20
"""Runs that the log names when their process hangs."""

STACK_SECONDS = 0.5
"""How long a thread may take to write its stack: one that is stopped in the kernel never does."""

STACK_BYTES = 64 * 1024

_PLACE = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
"""Matches a line of `faulthandler`'s output."""

_ID = re.compile(r"[0-9a-z]{15}")
"""Matches the name of a run's thread: see `thread_name`."""

log = structlog.get_logger(__name__)


class HangWatch:
    """Checks `children` twice a second, and kills one that did not answer for `limit_seconds`.

    It calls two methods of the pool: `retire` for a child that must get nothing new, `on_change`
    when the number of free slots may have changed.
    While `paused`, for example because the children are frozen, nothing counts as silence.
    """

    def __init__(
        self,
        children: Sequence[ChildProcess],
        limit_seconds: float,
        retire: Callable[[ChildProcess, str], None],
        on_change: Callable[[], None],
    ):
        self.paused = False
        self._children = children
        self._limit_seconds = limit_seconds
        self._retire = retire
        self._on_change = on_change

    async def run(self) -> None:
        """Watches until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for child in [] if self.paused else list(self._children):
                if child.ready and not child.killed:
                    await self._check(child)

    async def _check(self, child: ChildProcess) -> None:
        liveness = child.liveness
        if not liveness.is_waiting:
            return
        was_quiet = liveness.is_quiet
        try:
            # With a thousand threads, reading their files would hold up the worker's loop.
            threads = await asyncio.to_thread(read_thread_stats, child.flows_pid)
        except RuntimeError:  # the machine has no room for another thread
            threads = read_thread_stats(child.flows_pid)
        if self.paused or child.gone:
            return
        liveness.sample(asyncio.get_running_loop().time(), threads)
        if liveness.is_quiet != was_quiet:
            self._on_change()
        if liveness.silent_seconds >= self._limit_seconds:
            await self._end(child)

    async def _end(self, child: ChildProcess) -> None:
        """Kills the child. Its attempts get their outcomes when it is dead; until then they run."""
        self._retire(child, "hung")
        liveness = child.liveness
        places = await read_stack(child.flows_pid, child.stacks_fd, liveness.holders())
        if not liveness.is_quiet:
            return  # it has answered meanwhile: it finishes what it runs, and gets nothing new
        ends = outcomes(child, self._limit_seconds, places)
        _kill(child, liveness.silent_seconds, places, ends)

    def end_held(self, child: ChildProcess, id: str, places: Sequence[str]) -> None:
        """Ends a child that answers, but in which one run blocks the loop of asynchronous flows.

        This run goes on alone the next time, and the others are released. If there are no others,
        it keeps its process, which gets nothing new; but only one process at a time is kept so.
        """
        if child.slots == 1 or child.killed or self.paused:
            return
        is_first = not any(other.retiring and other.slots > 1 for other in self._children)
        self._retire(child, "loop_held")
        runs = {key: attempt.claim.id for key, attempt in child.attempts.items()}
        if is_first and set(runs.values()) == {id}:
            return
        ends = {
            key: Outcome("set_apart" if run == id else "displaced") for key, run in runs.items()
        }
        _kill(child, self._limit_seconds, places, ends)


def _kill(
    child: ChildProcess, seconds: float, places: Sequence[str], ends: Mapping[str, Outcome]
) -> None:
    runs = [attempt.claim.id for attempt in child.attempts.values()]
    log.error(
        "child_hung",
        pid=child.flows_pid,
        seconds=round(seconds, 1),
        runs=runs[:MAX_LOGGED_RUNS],
        count=len(runs),
        at=places,
    )
    for key, outcome in ends.items():
        # A run that has said how it ended keeps that outcome.
        child.final_outcomes.setdefault(key, (outcome, None))
    child.kill()


async def read_stack(pid: int, file: int, threads: Sequence[int]) -> list[str]:
    """Returns where in the flow's code these threads are, outermost call first; an empty list if
    they do not answer. `file` is the descriptor, in the child, to which they write their stacks.
    """
    for thread in threads:
        ask_for_stack(pid, thread)
    for _ in range(10 if threads else 0):
        await asyncio.sleep(STACK_SECONDS / 10)
        path = Path(f"/proc/{pid}/fd/{file}")
        with contextlib.suppress(OSError), path.open(errors="replace") as stacks:
            if found := _PLACE.findall(stacks.read(STACK_BYTES)):
                # `faulthandler` writes the innermost call first.
                places = [(path, f"{path}:{line} {name}") for path, line, name in reversed(found)]
                return flows_places(places)
    return []


def outcomes(child: ChildProcess, seconds: float, places: Sequence[str]) -> dict[str, Outcome]:
    """Returns the outcomes of a hung child's attempts, by their wire keys.

    Only a run that had the process for itself is known to be at fault. Suspects run alone the next
    time, and all others are released.
    """
    if child.run_count == 1:
        return dict.fromkeys(child.attempts, Outcome("hung", reason=_sentence(seconds, places)))
    suspects = _suspects(child)
    blamed = Outcome("set_apart")
    if len(suspects) > MAX_SUSPECTS:
        blamed = Outcome("disturbed", reason=_sentence(seconds, places))
    return {key: blamed if key in suspects else Outcome("displaced") for key in child.attempts}


def _suspects(child: ChildProcess) -> set[str]:
    """The wire keys of the attempts that may hold the process, as far as its threads tell."""
    names = {key: thread_name(attempt.claim.id) for key, attempt in child.attempts.items()}
    threads = child.liveness.threads
    holders = {threads[thread].name for thread in child.liveness.holders()}
    if holders & set(names.values()):
        return {key for key, name in names.items() if name in holders}
    if any(_ID.fullmatch(holder) for holder in holders):
        return set()  # a run that was abandoned earlier
    if LOOP_NAME in holders:
        # It is one of the asynchronous flows: those that have no thread of their own.
        in_threads = {thread.name for thread in threads.values()}
        return {key for key, name in names.items() if name not in in_threads}
    return set(names)


def _sentence(seconds: float, places: Sequence[str]) -> str:
    where = f" (at {', in '.join(dict.fromkeys((places[0], places[-1])))})" if places else ""
    return (
        f"The flow kept its process from doing anything else for {seconds:g} s{where}. "
        "Code that computes without a pause, or stops its process, needs a flow with "
        "`isolation: process`."
    )
