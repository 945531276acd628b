"""Puts a process back as it was at its birth, after each run; says where that cannot be done."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from types import ModuleType
from typing import Any, Protocol

import structlog

from app.runtime.loop import HELPER_NAME, the_loop
from app.worker.cleanup import asyncio_state
from app.worker.cleanup.modules import OwnModules
from app.worker.cleanup.patches import Patches
from app.worker.cleanup.processes import end_processes_of_run, has_children
from app.worker.cleanup.state import ALONE, BESIDE_OTHERS, Entry
from app.worker.cleanup.streams import Streams

THREAD_GRACE_SECONDS = 0.1

MAX_FILES_SHARE = 0.5
"""A process with more open files than this share of what it may have is replaced."""

FULL_FILES_SHARE = 0.9
"""The same in a process of threads, whose runs may all have connections of their own."""

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

log = structlog.get_logger(__name__)


class Cleaned(Protocol):
    """A run, as far as the clean-up needs it."""

    names: dict[str, Any]

    def note_leaked_threads(self, count: int) -> None: ...

    def parts(self) -> Sequence[tuple[Hashable, Any]]:
        """The flows it may run, each as a key and a function that loads its code."""
        ...


class Found:
    """What the clean-up found. `unfit`: why the process must not run anything else, or nothing."""

    def __init__(self) -> None:
        self.unfit = ""


class Cleanup:
    """Made and used in a process's main thread; `beside_others` in any."""

    def __init__(self, streams: Streams, alone: bool):
        self._streams, self._alone = streams, alone
        self._entries: tuple[Entry, ...] = ALONE if alone else BESIDE_OTHERS
        self._birth: dict[str, Any] = {}
        self._imports: dict[Hashable, dict[str, Any]] = {}
        self._modules_of: dict[Hashable, dict[str, ModuleType]] = {}
        self._putting_back = threading.Lock()

    def begin(self) -> None:
        """Takes the picture that everything is put back to. Called once, when all is set up."""
        self._birth = self._pictures()
        self._entries = tuple(entry for entry in self._entries if entry.name in self._birth)
        self._own_modules, self._patches = OwnModules(), Patches()
        if not self._alone:
            for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
                signal.signal(
                    number, lambda *_: None
                )  # a flow's alarm would end all its neighbours

    @contextlib.contextmanager
    def around(self, run: Cleaned) -> Iterator[Found]:
        """For a run that has the process for itself: it finds the process as every other run does.

        What the import of a flow's code changes is part of that flow: it is there in each of its
        runs, though the code is imported once. Threads cannot be ended: what does not end is left
        behind.
        """
        before, found = set(threading.enumerate()), Found()
        random.seed()  # one flow's seed must not make another's numbers known
        with contextlib.suppress(KeyError):
            sys.modules["numpy"].random.seed()
        self._import(run)
        if not has_children(os.getpid()):
            before |= set(threading.enumerate())  # those of the code itself stay with it
        try:
            yield found
        finally:
            found.unfit = self._clean_up(run, before)
            if found.unfit:
                log.warning("process_unfit", **run.names, reason=found.unfit)

    def beside_others(self) -> str:
        """In a process of threads, after each run: what no flow has a reason to change for all."""
        with self._putting_back:
            try:
                self._streams.repair()
                faulthandler.cancel_dump_traceback_later()
                changed = self._restored()
                return _too_many_files(
                    _first_free_number, FULL_FILES_SHARE
                ) or self._changed_for_good(changed)
            except Exception as error:
                return _failed(error)

    def _clean_up(self, run: Cleaned, before: set[threading.Thread]) -> str:
        """Why the process is unfit for another run, or nothing. So it is where this cannot even be
        found out.
        """
        self._disarm()
        try:
            is_alone = end_processes_of_run()
            run.note_leaked_threads(_end_threads(before))
            self._keep_modules(run)
            return self._put_back() or (
                "" if is_alone else "A flow's processes could not be ended."
            )
        except Exception as error:
            return _failed(error)

    def _import(self, run: Cleaned) -> None:
        """Loads the code of the run's flows, or does again what loading it did to the process."""
        for key, load in run.parts():
            sys.modules.update(self._modules_of.get(key, {}))
            if key in self._imports:
                for entry in self._entries:
                    if entry.name in self._imports[key]:
                        with contextlib.suppress(Exception):
                            entry.again(self._imports[key][entry.name])
                continue
            before = self._pictures()
            with structlog.contextvars.bound_contextvars(**run.names):
                if load():
                    self._imports[key] = self._differences(before)

    def _differences(self, before: dict[str, Any]) -> dict[str, Any]:
        after = self._pictures()
        return {
            entry.name: entry.difference(before[entry.name], after[entry.name])
            for entry in self._entries
            if entry.name in before
            and entry.name in after
            and before[entry.name] != after[entry.name]
        }

    def _keep_modules(self, run: Cleaned) -> None:
        own = self._own_modules.take_out()
        for key, _ in run.parts():
            self._modules_of[key] = own

    def _disarm(self) -> None:
        """First of all, since a handler of the run may raise in the middle of what follows."""
        for _ in range(100):
            try:
                for timer in _TIMERS:
                    signal.setitimer(timer, 0)
                faulthandler.cancel_dump_traceback_later()
                for entry in self._entries:
                    wanted = self._birth[entry.name]
                    if entry.name == "signal handlers" and entry.take() != wanted:
                        entry.put_back(wanted)
                return
            except BaseException:  # noqa: S112  it came from the run's own handler
                continue

    def _put_back(self) -> str:
        self._streams.put_back()
        changed = self._restored()
        full = _too_many_files(_open_files, MAX_FILES_SHARE)
        return full or self._changed_for_good(changed) or asyncio_state.put_back()

    def _restored(self) -> str:
        """Puts all entries back. The name of one that stays changed, or nothing."""
        changed = ""
        for entry in self._entries:
            wanted = self._birth[entry.name]
            try:
                if entry.take() == wanted:
                    continue
            except Exception:  # noqa: S110  the working folder is gone, say
                pass
            try:
                entry.put_back(wanted)
                if entry.take() != wanted:
                    changed = changed or entry.name
            except Exception:
                changed = changed or entry.name
        return changed

    def _changed_for_good(self, changed: str) -> str:
        if changed:
            return f"A flow has changed {changed}, which cannot be put back."
        patched = self._patches.first()
        return f"A flow has replaced {patched} of the standard library." if patched else ""

    def _pictures(self) -> dict[str, Any]:
        pictures = {}
        for entry in self._entries:
            with contextlib.suppress(Exception):
                pictures[entry.name] = entry.take()
        return pictures


def _end_threads(before: set[threading.Thread]) -> int:
    """Waits a moment for threads that the run has started. Returns how many go on."""
    deadline = time.monotonic() + THREAD_GRACE_SECONDS
    started = [each for each in threading.enumerate() if each not in before and not _is_ours(each)]
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    return sum(thread.is_alive() for thread in started)


def _is_ours(thread: threading.Thread) -> bool:
    """The event loops of the service and their helpers, which stay for all runs.

    Whether a helper still works for a run is known to the loop: see `the_loop.end_of_run`.
    """
    return (
        thread is the_loop.thread
        or thread.name == "models"
        or thread.name.startswith(("asyncio_", HELPER_NAME))
    )


def _failed(error: Exception) -> str:
    """A flow has opened all files that there may be, say, or replaced what the clean-up is made of."""
    return f"What a flow has changed cannot be put back: {error!r}"


def _too_many_files(count: Callable[[], int], share: float) -> str:
    """Clients that a flow's module keeps may stay open for the next run. A leak must not go on for
    ever.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        opened = count()
    except OSError:
        return "No more files can be opened."
    if allowed != resource.RLIM_INFINITY and opened > allowed * share:
        return f"{opened} files are open, of {allowed} that may be."
    return ""


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _first_free_number() -> int:
    """As good as their number, and costs next to nothing: there may be thousands of connections."""
    free = os.dup(0)
    os.close(free)
    return free
