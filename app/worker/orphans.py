"""Ends the processes that flows leave behind. The worker's `main` runs `sweep_for_life`.

When the parent of such a process dies, the kernel makes it a child of the worker (see
`app.process.prctl`), which must then kill and reap it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from app.worker.forkserver import Forkserver

SWEEP_SECONDS = 1.0

HUNT_SECONDS = 5.0
"""How long orphans are killed after a child died. An orphan may have children of its own, which are
adopted only when it is dead.
"""

MAX_PASSES = 50
"""The most passes of one sweep. After a pass that killed something it makes another one, because a
process that keeps forking and exiting is gone before a single pass finds it.
"""

_STATE = 0
_SESSION = 3
"""Fields of /proc/<pid>/stat, counted from the one after the program's name: see proc(5)."""


class OrphanSweeper:
    """Finds orphans: children of this process that `forkserver` does not know. Never blocks for
    longer than it takes to read a few small files of the kernel.
    """

    def __init__(self, forkserver: Forkserver):
        self._forkserver = forkserver
        self._hunt_until = 0.0

    async def sweep_for_life(self) -> None:
        while True:
            self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    def child_died(self) -> None:
        """Starts to kill orphans: the processes that the child's flows left behind are now some."""
        self._hunt_until = time.monotonic() + HUNT_SECONDS
        self.sweep()

    def sweep(self) -> None:
        """Reaps dead orphans and, for some seconds after a child died, kills living ones.

        An orphan in the session of a living child is left alone: a flow may still use it.
        """
        # A child that is just being forked looks like an orphan.
        if self._forkserver.busy:
            return
        # OSError: no file can be opened at the moment. The next sweep tries again.
        with contextlib.suppress(OSError):
            for _ in range(MAX_PASSES):
                if not self._sweep():
                    return

    def _sweep(self) -> bool:
        """Makes one pass. Returns whether it killed an orphan, whose children are adopted next."""
        has_killed = False
        ours = {*self._forkserver.children, self._forkserver.pid}
        hunting = time.monotonic() < self._hunt_until
        for pid in _children():
            state, session = ("", 0) if pid in ours else _state_and_session(pid)
            if not state:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
                if state == "Z":
                    os.waitpid(pid, os.WNOHANG)
                elif hunting and session not in self._forkserver.children:
                    os.kill(pid, signal.SIGKILL)
                    has_killed = True
        return has_killed


def _children() -> Iterator[int]:
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())


def _state_and_session(pid: int) -> tuple[str, int]:
    """Returns the state, such as `Z`, and the session's id; an empty state if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[_STATE], int(fields[_SESSION])
    except (OSError, IndexError, ValueError):
        return "", 0
