"""The threads of another process, as the kernel shows them: what each is called, how long it
computed and waited.
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
"""Has a child write the stack of the thread that gets it, also while another one holds the
interpreter.
"""

BUSY_SHARE, LEADS_BY = 0.3, 4.0
"""A thread holds the interpreter if it computes that share of the time, so many times as long as
every other.
"""

TURNS_SHARE = 0.5
"""Threads take turns with the interpreter if they compute for that share of the time together,
and none leads.
"""

FAULTS_PER_SECOND = 50
"""Pages read from the disk: a process that needs more of them is being swapped in."""

LOOP_NAME = "flow-loop"
"""The thread of the event loop that asynchronous flows share."""

_STATE, _MAJOR_FAULTS = 0, 9
"""Fields of /proc/<pid>/task/<tid>/stat, counted behind the name: see proc(5)."""

_MOST = 2000


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one thread, since it was started. `delayed`: it was ready to run, and others had the
    processors.
    """

    name: str
    state: str
    computed_seconds: float
    delayed_seconds: float
    faults: int


Threads = Mapping[int, Facts]


def threads_of(pid: int) -> Threads:
    """Reads small files of the kernel's, a few for each thread; of very many threads it takes
    the first.
    """
    found: dict[int, Facts] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task")[:_MOST]:
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(name)] = _facts(Path(f"/proc/{pid}/task/{name}"))
    return found


def _facts(folder: Path) -> Facts:
    head, _, rest = (folder / "stat").read_text(errors="replace").rpartition(")")
    fields = rest.split()
    times = (folder / "schedstat").read_text().split()
    return Facts(
        name=head.partition("(")[2],
        state=fields[_STATE],
        computed_seconds=int(times[0]) / 1e9,
        delayed_seconds=int(times[1]) / 1e9,
        faults=int(fields[_MAJOR_FAULTS]),
    )


def hindrance(before: Threads, after: Threads, seconds: float) -> float:
    """The share of the time, from 0 to 1, in which the process could not answer for no fault of its
    own.

    It was ready to compute and others had the processors, or it was being swapped in; or its
    threads take turns, and there are so many that the one that answers has not had its turn.
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


def _is_paged_in(both: Sequence[tuple[Facts, Facts]], seconds: float) -> bool:
    faults = sum(now.faults - then.faults for then, now in both)
    return faults > FAULTS_PER_SECOND * seconds or any(now.state == "D" for _, now in both)


def busiest(before: Threads, after: Threads) -> list[int]:
    """The thread that has computed most, if it has done so much longer than every other; else
    none.
    """
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
    """Sends the thread `STACK_SIGNAL`, whose answer a child writes into the file that it has
    made for that.
    """
    with contextlib.suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).tgkill(pid, tid, int(STACK_SIGNAL))


def thread_name(execution_id: str) -> str:
    """What the threads of a run are called: the end of its id, as long as a name may be."""
    return execution_id[-15:]


def name_thread(name: str) -> None:
    """Names the thread that calls, as `top -H` shows it: at most 15 bytes. Threads that it
    starts inherit it.
    """
    ctypes.PyDLL(None).prctl(15, name.encode()[:15], 0, 0, 0)
