"""Puts a process back as it was before a run: its folder, its environment, its processes, its threads."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from app.runtime.usage import Usage

THREAD_GRACE_SECONDS = 0.1


class Surroundings:
    """What is known of a run beside its outcome."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.left_behind = 0

    def leave_behind(self, threads: int) -> None:
        self.left_behind = max(self.left_behind, threads)


@contextlib.contextmanager
def cleaned_up(surroundings: Surroundings) -> Iterator[None]:
    """For a run that has the process for itself: the next one finds it as this one did.

    Its processes are ended, its folder and environment are put back. Threads can not be ended: those that do
    not end by themselves are left behind.
    """
    folder, environment, before = os.getcwd(), dict(os.environ), set(threading.enumerate())
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        kill_descendants(os.getpid())
        deadline = time.monotonic() + THREAD_GRACE_SECONDS
        started = [each for each in threading.enumerate() if each not in before and not _is_ours(each)]
        for thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))
        surroundings.leave_behind(sum(thread.is_alive() for thread in started))


def _is_ours(thread: threading.Thread) -> bool:
    """The provider's event loop, and the threads in which it looks up names: they stay for all runs."""
    return thread.name == "models" or thread.name.startswith("asyncio_")


def kill_descendants(pid: int) -> None:
    """Ends every process that a flow started and left behind, also what detached itself."""
    children = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    with contextlib.suppress(OSError, psutil.Error):
        if any(children):
            descendants = psutil.Process(pid).children(recursive=True)
            for each in descendants:
                kill_process(each)
            psutil.wait_procs(descendants, timeout=1)


def kill_process(process: Any) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()
