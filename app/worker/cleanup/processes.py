"""The processes that a flow starts: plain ones when they are forked, ended when the run has ended."""

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

CHAIN_SECONDS = 2.0
"""How long a chain of forks is hunted. If it goes on after that, the process is replaced."""

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def forks_are_plain(worker: socket.socket) -> None:
    """Makes what a flow forks a process like any other.

    It can be ended by SIGTERM, which is what `multiprocessing.Pool` does, and it has no way to
    speak to the worker: two processes that write to one socket would garble what both say.
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
        # A signal that came meanwhile has waited for this, else it would be lost.
        signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)

    os.register_at_fork(
        before=about_to_fork, after_in_parent=forked_in_parent, after_in_child=forked_in_child
    )


def has_children(pid: int) -> bool:
    """Whether the process has started others that are not reaped yet."""
    return bool(_children(pid))


def _children(pid: int) -> list[int]:
    """Those that it has started, or adopted."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


def kill_descendants(pid: int, spared: Collection[int] = ()) -> None:
    """Ends every process that a flow started and left behind, also what detached itself."""
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
    """Ends what forks and ends itself, again and again: each is gone before a look at all processes
    has found it.

    Whoever's parent is gone is a child of this process. Returns whether none is left.
    """
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
    """Ends all that this process has started, and leaves multiprocessing as if nobody had used it.
    Returns whether nothing of it is left.

    Its fork server and its resource tracker end when nobody holds their pipes any more, and then
    remove what would stay in the machine's memory. They are started anew when somebody needs them.
    """
    pid = os.getpid()
    if not has_children(pid):
        return True
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    tracker = getattr(
        sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None
    )
    helpers = [(server, "_forkserver_pid", "_forkserver_alive_fd"), (tracker, "_pid", "_fd")]
    kill_descendants(pid, [getattr(helper, name, 0) or 0 for helper, name, _ in helpers])
    for helper, name, pipe in helpers:
        _end_helper(helper, name, pipe)
    kill_descendants(pid)
    is_over = _end_chain(pid)
    # Its list of children would keep those that were ended here, and wait for them.
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
        process.resume()  # what is frozen cannot end
        try:
            process.wait(HELPER_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(HELPER_SECONDS)
