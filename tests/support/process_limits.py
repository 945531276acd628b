"""Limits the processes and threads of a running worker, for tests.

`docker --pids-limit`, Kubernetes, systemd and Heroku set such limits.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

_FOLDERS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
"""Where control groups of version 1 and version 2 are mounted."""


class ProcessLimit:
    """A limit for a worker and all its children, threads included."""

    def __init__(self, pid: int, group: Path | None):
        self._pid, self._group = pid, group

    @property
    def count(self) -> int:
        """The number of processes and threads now."""
        if self._group:
            return int((self._group / "pids.current").read_text())
        return sum(process.num_threads() for process in _mine())

    def set(self, limit: int | None) -> None:
        """Sets the limit; None removes it."""
        if self._group:
            (self._group / "pids.max").write_text("max" if limit is None else str(limit))
            return
        wanted = resource.RLIM_INFINITY if limit is None else limit
        for process in (
            psutil.Process(self._pid),
            *psutil.Process(self._pid).children(recursive=True),
        ):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                resource.prlimit(
                    process.pid, resource.RLIMIT_NPROC, (wanted, resource.RLIM_INFINITY)
                )


@contextlib.contextmanager
def process_limit(pid: int) -> Iterator[ProcessLimit | None]:
    """Uses a control group if this user may create one, else RLIMIT_NPROC.

    Yields None if neither works: RLIMIT_NPROC does not apply to root.
    """
    for folder in _FOLDERS:
        group = folder / f"limit-{os.getpid()}-{pid}"
        try:
            group.mkdir()
        except OSError:
            continue
        if not (group / "pids.max").exists():
            group.rmdir()
            continue
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            (group / "cgroup.procs").write_text(str(process.pid))
        try:
            yield ProcessLimit(pid, group)
        finally:
            (group / "pids.max").write_text("max")
            for line in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (folder / "cgroup.procs").write_text(line)
            with contextlib.suppress(OSError):
                group.rmdir()
        return
    yield None if os.geteuid() == 0 else ProcessLimit(pid, None)


def _mine() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == os.getuid():
                yield process
