"""Ends the processes that a flow started, and makes forks of a child plain processes.

`cleanup` calls `end_processes_of_run` after each run, `child` calls `forks_are_plain` once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

HELPER_SECONDS = 1.0
"""How long a helper process of multiprocessing may take to exit by itself."""

CHAIN_SECONDS = 2.0
"""How long a chain of forks is hunted. If it is still alive then, the process is replaced."""

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def forks_are_plain(worker: socket.socket) -> None:
    """Makes every process that a flow forks a plain one.

    It dies of SIGTERM, which `multiprocessing.Pool` relies on. It cannot write to `worker`, the
    socket: messages of two processes on one socket would be garbled.
    """

    before = threading.local()

    def about_to_fork() -> None:
        before.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)

    def forked_in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)

    def forked_in_child() -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(OSError):
            worker.close()
        # Only now: a signal that arrived earlier would have met the handler of the child, which
        # ignores it.
        signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)

    os.register_at_fork(
        before=about_to_fork, after_in_parent=forked_in_parent, after_in_child=forked_in_child
    )


def has_children(pid: int) -> bool:
    """Whether the process has children that are not reaped yet."""
    return bool(_children(pid))


def _children(pid: int) -> list[int]:
    """The pids of the processes that it started or adopted."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


def kill_descendants(pid: int, spared: Collection[int] = ()) -> None:
    """Kills all descendants of a process but `spared`, even those that detached themselves."""
    if not has_children(pid):
        return
    with contextlib.suppress(psutil.Error):
        descendants = [
            descendant
            for descendant in psutil.Process(pid).children(recursive=True)
            if descendant.pid not in spared
        ]
        for descendant in descendants:
            kill_process(descendant)
        psutil.wait_procs(descendants, timeout=1)


def _end_chain(pid: int) -> bool:
    """Kills a chain of processes that each fork the next and exit: psutil's look at all processes
    is too slow to find one. Returns whether none is left.
    """
    # This process adopts orphans, so the living end of the chain is always its child.
    deadline = time.monotonic() + CHAIN_SECONDS
    while children := _children(pid):
        if time.monotonic() > deadline:
            return False
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)
    return True


def kill_process(process: Any) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()


def end_processes_of_run() -> bool:
    """Ends all processes that this one started, and resets multiprocessing. Returns whether none
    is left.
    """
    pid = os.getpid()
    if not has_children(pid):
        return True
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    tracker = getattr(
        sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None
    )
    helpers = [(server, "_forkserver_pid", "_forkserver_alive_fd"), (tracker, "_pid", "_fd")]
    # The helpers are spared at first. They end when their pipes are closed, and only then remove
    # shared memory that the flow left behind. multiprocessing starts new ones when it needs them.
    kill_descendants(pid, [getattr(helper, name, 0) or 0 for helper, name, _ in helpers])
    for helper, name, pipe in helpers:
        _end_helper(helper, name, pipe)
    kill_descendants(pid)
    is_over = _end_chain(pid)
    # multiprocessing would otherwise wait for children that were reaped here.
    getattr(sys.modules.get("multiprocessing.process"), "_children", set()).clear()
    return is_over


def _end_helper(helper: Any, name: str, pipe: str) -> None:
    pid = getattr(helper, name, None)
    if pid is None or getattr(helper, pipe, None) is None:
        return
    with contextlib.suppress(OSError):
        os.close(getattr(helper, pipe))
    setattr(helper, pipe, None)
    setattr(helper, name, None)
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        process.resume()  # a frozen process cannot end
        try:
            process.wait(HELPER_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(HELPER_SECONDS)
