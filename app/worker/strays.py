"""Ends and reaps the processes that flows leave behind: this process adopts them when their parents
die.
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
"""How long strays are ended after a child died: one may have started others, which are adopted when
it is dead.
"""

LOOKS = 50
"""In one sweep, as long as each finds something: what forks and ends itself, again and again, is
hard to meet.
"""

_STATE, _SESSION = 0, 3
"""Fields of /proc/<pid>/stat, counted behind the program's name: see proc(5)."""


class Strays:
    """Knows the worker's own processes by its forkserver. Nothing here blocks: it reads small files
    of the kernel's.
    """

    def __init__(self, forkserver: Forkserver):
        self._forkserver = forkserver
        self._hunt_until = 0.0

    async def sweep_for_life(self) -> None:
        while True:
            self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    def child_died(self) -> None:
        """What its flows have left behind is a stray now."""
        self._hunt_until = time.monotonic() + HUNT_SECONDS
        self.sweep()

    def sweep(self) -> None:
        """Reaps strays that are dead; for some seconds after a child died it also ends those that
        live.

        A stray in the session of a child that lives is left alone: a flow of that child may still
        use it.
        """
        if self._forkserver.busy:  # a child that is just coming into being looks like a stray
            return
        with contextlib.suppress(
            OSError
        ):  # no file can be opened just now: the next sweep looks again
            for _ in range(LOOKS):
                if not self._sweep():
                    return

    def _sweep(self) -> bool:
        """Whether it has ended one, whose children come next."""
        has_ended = False
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
                    has_ended = True
        return has_ended


def _children() -> Iterator[int]:
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())


def _state_and_session(pid: int) -> tuple[str, int]:
    """Empty text for a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[_STATE], int(fields[_SESSION])
    except (OSError, IndexError, ValueError):
        return "", 0
