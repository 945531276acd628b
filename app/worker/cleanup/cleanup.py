"""Resets a process after each run, and reports if that is impossible. Called by `child`.

In a process that runs one flow at a time, `Cleanup.around` resets everything that `state` lists. In
a process of threads, `Cleanup.beside_others` resets only what no flow has a reason to change.
"""

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
from typing import Any, Protocol, TypeVar

import structlog

from app.runtime.loop import HELPER_NAME, the_loop
from app.worker.cleanup import asyncio_state
from app.worker.cleanup.modules import OwnModules
from app.worker.cleanup.patches import Patches
from app.worker.cleanup.processes import end_processes_of_run, has_children
from app.worker.cleanup.state import ALONE, BESIDE_OTHERS, Entry
from app.worker.cleanup.streams import Streams
from app.worker.live_reports import THREAD_NAME

THREAD_GRACE_SECONDS = 0.1
"""How long threads of a run may continue after its end before they count as leaked."""

DISARM_TRIES = 1000
"""A handler of the run may raise in any of them, as long as its timer is set."""

MAX_FILES_SHARE = 0.5
"""A process whose open files exceed this share of its limit is replaced."""

FULL_FILES_SHARE = 0.9
"""The same for a process of threads. It is higher, as each of its runs may have connections."""

CHECK_SECONDS = 0.02
"""The shortest time between two slow checks in a process of threads. After every run, they would
cost short runs a third of their time. A later check finds the same changes.
"""

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Cleaned(Protocol):
    """A run, as far as the clean-up needs to know it: `child_run.ChildRun` is one."""

    names: dict[str, Any]

    def note_leaked_threads(self, count: int) -> None: ...

    def parts(self) -> Sequence[tuple[Hashable, Any]]:
        """The flows it may run, each as a key and a function that loads its code."""
        ...


class CleanupResult:
    """The result of the clean-up. `unfit`: why the process must not run anything else, or `""`."""

    def __init__(self) -> None:
        self.unfit = ""


class Cleanup:
    """To be made and used in a process's main thread; `beside_others` may be called in any.

    `alone`: the process runs one flow at a time.
    """

    def __init__(self, streams: Streams, alone: bool):
        self._streams = streams
        self._alone = alone
        self._entries: tuple[Entry, ...] = ALONE if alone else BESIDE_OTHERS
        self._birth: dict[str, Any] = {}
        self._imports: dict[Hashable, dict[str, Any]] = {}
        self._modules_of: dict[Hashable, dict[str, ModuleType]] = {}
        self._putting_back = threading.Lock()
        self._slow_check_at = 0.0

    def begin(self) -> None:
        """Takes the picture to which everything is reset. Called once, before the first run."""
        self._birth = self._pictures()
        self._entries = tuple(entry for entry in self._entries if entry.name in self._birth)
        self._own_modules, self._patches = OwnModules(), Patches()
        if not self._alone:
            # By default a flow's alarm would end the process, and all its neighbours with it.
            for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
                signal.signal(number, lambda *_: None)

    @contextlib.contextmanager
    def around(self, run: Cleaned) -> Iterator[CleanupResult]:
        """Prepares and cleans up a run that has the process for itself.

        Changes made by the import of a flow's code belong to that flow: they are there in each of
        its runs, although the code is imported only once.
        """
        before, found = set(threading.enumerate()), CleanupResult()
        random.seed()  # after one flow's seed, another's random numbers would be predictable
        with contextlib.suppress(KeyError):
            sys.modules["numpy"].random.seed()
        self._import(run)
        if not has_children(os.getpid()):
            # Threads that the import started belong to the code, which stays loaded.
            before |= set(threading.enumerate())
        try:
            yield found
        finally:
            found.unfit = self._clean_up(run, before)
            if found.unfit:
                log.warning("process_unfit", **run.names, reason=found.unfit)

    def call(self, act: Callable[[], Result], failed: Callable[[BaseException], Result]) -> Result:
        """Calls `act`, and removes the timers and signal handlers that it leaves behind.

        Until that is done, a handler may raise an exception anywhere, also after the end of `act`.
        Returns the result of `act`, or that of `failed` if `act` has none because of an exception.
        """
        calls, results, errors = iter([act]), list[Result](), list[BaseException]()
        try:
            self._call_and_disarm(calls, results, errors)
        except BaseException as error:  # raised by a handler between two tries
            errors.append(error)
            self._call_and_disarm(calls, results, errors)
        return results[0] if results else failed(errors[0])

    def beside_others(self) -> str:
        """Resets a process of threads after a run, while other runs continue. Returns why the
        process is unfit, or an empty string.
        """
        with self._putting_back:
            try:
                self._streams.repair()
                faulthandler.cancel_dump_traceback_later()
                now = time.monotonic()
                is_due = now >= self._slow_check_at
                changed = self._restored(slow_too=is_due)
                unfit = _too_many_files(_first_free_number, FULL_FILES_SHARE)
                if is_due:
                    self._slow_check_at = now + CHECK_SECONDS
                    unfit = unfit or self._patched()
                return unfit or _for_good(changed)
            except Exception as error:
                return _failed(error)

    def _clean_up(self, run: Cleaned, before: set[threading.Thread]) -> str:
        """Cleans up after a run. Returns why the process is unfit for another one, or an empty
        string. An error in here makes it unfit, too.
        """
        if _is_armed():  # again, by a task that was cancelled at the end of the run
            self.call(lambda: None, lambda _: None)
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
        """Loads the code of the run's flows, or repeats the changes that loading it once made."""
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

    def _call_and_disarm(
        self,
        calls: Iterator[Callable[[], Result]],
        results: list[Result],
        errors: list[BaseException],
    ) -> None:
        for _ in range(DISARM_TRIES):
            try:
                for act in calls:
                    results.append(act())
                self._disarm()
                return
            except BaseException as error:
                errors.append(error)

    def _disarm(self) -> None:
        """Removes the run's timers and signal handlers. A handler may raise in any line of it."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        for entry in self._entries:
            wanted = self._birth[entry.name]
            if entry.name == "signal handlers" and entry.take() != wanted:
                entry.put_back(wanted)

    def _put_back(self) -> str:
        self._streams.put_back()
        changed = self._restored()
        full = _too_many_files(_open_files, MAX_FILES_SHARE)
        return full or _for_good(changed) or self._patched() or asyncio_state.put_back()

    def _restored(self, slow_too: bool = True) -> str:
        """Resets all entries. Returns the name of one that stays changed, or an empty string."""
        changed = ""
        for entry in self._entries:
            if entry.is_slow and not slow_too:
                continue
            wanted = self._birth[entry.name]
            try:
                if entry.take() == wanted:
                    continue
            except Exception:  # noqa: S110  for example, the working folder was deleted
                pass
            try:
                entry.put_back(wanted)
                if entry.take() != wanted:
                    changed = changed or entry.name
            except Exception:
                changed = changed or entry.name
        return changed

    def _patched(self) -> str:
        patched = self._patches.first()
        return f"A flow has replaced {patched} of the standard library." if patched else ""

    def _pictures(self) -> dict[str, Any]:
        pictures = {}
        for entry in self._entries:
            with contextlib.suppress(Exception):
                pictures[entry.name] = entry.take()
        return pictures


def _is_armed() -> bool:
    return any(signal.getitimer(timer) != (0.0, 0.0) for timer in _TIMERS)


def _for_good(changed: str) -> str:
    return f"A flow has changed {changed}, which cannot be put back." if changed else ""


def _end_threads(before: set[threading.Thread]) -> int:
    """Waits for the threads that the run started. Returns how many go on: none can be killed."""
    deadline = time.monotonic() + THREAD_GRACE_SECONDS
    started = [
        thread for thread in threading.enumerate() if thread not in before and not _is_ours(thread)
    ]
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    return sum(thread.is_alive() for thread in started)


def _is_ours(thread: threading.Thread) -> bool:
    """Whether a thread belongs to the service: its event loop and helpers stay for all runs.

    A helper may still work for a run. The loop knows that: see `the_loop.end_of_run`.
    """
    return (
        thread is the_loop.thread
        or thread.name in ("models", THREAD_NAME)
        or thread.name.startswith(("asyncio_", HELPER_NAME))
    )


def _failed(error: Exception) -> str:
    """The reason after an error in the clean-up, for example because no file can be opened."""
    return f"What a flow has changed cannot be put back: {error!r}"


def _too_many_files(count: Callable[[], int], share: float) -> str:
    """Returns why the process has too many open files, or an empty string. Clients that a flow's
    module keeps may stay open for its next run, so only a leak counts.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        opened = count()
    except OSError:
        return "No more files can be opened."
    if allowed != resource.RLIM_INFINITY and opened > allowed * share:
        return f"{opened} files are open, of {allowed} that are allowed."
    return ""


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _first_free_number() -> int:
    """About the number of open files. Costs less than listing thousands of connections."""
    free = os.dup(0)
    os.close(free)
    return free
