"""Reads from the kernel what the threads of a child process do: names, computing time, waits.

`hang_watch` reads them, and `liveness` compares two readings to find out whether the child could
have answered, and which thread kept it from that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STACK_SIGNAL = signal.SIGRTMIN + 7
"""Makes a child write the stack of the thread that gets it, even while another thread holds the
interpreter. A real-time signal that neither glibc nor Python's libraries use.
"""

BUSY_SHARE = 0.3
LEADS_BY = 4.0
"""A thread holds the interpreter if it computes for at least `BUSY_SHARE` of the time, and for
`LEADS_BY` times as long as any other thread.
"""

TURNS_SHARE = 0.5
"""Threads take turns with the interpreter if together they compute for at least this share of the
time, and none leads.
"""

FAULTS_PER_SECOND = 50
"""Pages read from disk. A process that needs more than this is being swapped in."""

LOOP_NAME = "flow-loop"
"""The thread of the event loop that asynchronous flows share."""

_STATE = 0
_MAJOR_FAULTS = 9
"""Fields of /proc/<pid>/task/<tid>/stat, counted from the one after the name: see proc(5)."""

_MAX_THREADS = 2000
"""Reading more would take longer than the time between two checks of `hang_watch`."""


@dataclass(frozen=True, slots=True)
class ThreadStat:
    """Figures of one thread since its start. `delayed`: ready to run, but without a processor."""

    name: str
    state: str
    computed_seconds: float
    delayed_seconds: float
    faults: int


ThreadStats = Mapping[int, ThreadStat]


def read_thread_stats(pid: int) -> ThreadStats:
    """Returns the threads of a process by their ids; an empty mapping if the process is gone.

    Reads a few small files per thread, of at most `_MAX_THREADS` threads.
    """
    found: dict[int, ThreadStat] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task")[:_MAX_THREADS]:
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(name)] = _facts(Path(f"/proc/{pid}/task/{name}"))
    return found


def _facts(folder: Path) -> ThreadStat:
    head, _, rest = (folder / "stat").read_text(errors="replace").rpartition(")")
    fields = rest.split()
    times = (folder / "schedstat").read_text().split()
    return ThreadStat(
        name=head.partition("(")[2],
        state=fields[_STATE],
        computed_seconds=int(times[0]) / 1e9,
        delayed_seconds=int(times[1]) / 1e9,
        faults=int(fields[_MAJOR_FAULTS]),
    )


def hindrance(before: ThreadStats, after: ThreadStats, seconds: float) -> float:
    """Returns the share of the time, from 0 to 1, in which the process could not have answered,
    through no fault of its own.

    That is the case if it was ready to run but got no processor, if it was being swapped in, or if
    so many threads take turns that the one that answers has not had its turn.
    """
    both = [(before[tid], facts) for tid, facts in after.items() if tid in before]
    if not both or seconds <= 0:
        return 0.0
    computed = sorted(now.computed_seconds - then.computed_seconds for then, now in both)
    if sum(computed) > TURNS_SHARE * seconds:
        if len(computed) > 1 and computed[-1] < LEADS_BY * computed[-2]:
            return 1.0
    elif _is_paged_in(both, seconds):
        return 1.0
    return min(1.0, max(now.delayed_seconds - then.delayed_seconds for then, now in both) / seconds)


def _is_paged_in(both: Sequence[tuple[ThreadStat, ThreadStat]], seconds: float) -> bool:
    faults = sum(now.faults - then.faults for then, now in both)
    return faults > FAULTS_PER_SECOND * seconds or any(now.state == "D" for _, now in both)


def busiest(before: ThreadStats, after: ThreadStats) -> list[int]:
    """Returns the id of the thread that computed far more than any other; else an empty list."""
    computed = sorted(
        (
            (facts.computed_seconds - before[tid].computed_seconds, tid)
            for tid, facts in after.items()
            if tid in before
        ),
        reverse=True,
    )
    if not computed:
        return []
    most, tid = computed[0]
    others = computed[1][0] if len(computed) > 1 else 0.0
    return [tid] if most > LEADS_BY * others and most > BUSY_SHARE else []


def ask_for_stack(pid: int, tid: int) -> None:
    """Sends `STACK_SIGNAL` to a thread, which then writes its stack into the child's file."""
    with contextlib.suppress(AttributeError):  # a C library without `tgkill`
        ctypes.CDLL(None).tgkill(pid, tid, int(STACK_SIGNAL))


def thread_name(execution_id: str) -> str:
    """Returns the name for the threads of a run: the last 15 characters of its id, which is all
    that the kernel keeps.
    """
    return execution_id[-15:]
