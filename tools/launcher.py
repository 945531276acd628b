"""Runs the processes of `make run`: starts them, reloads them, ends them, and says so.

Everything happens in the main thread. The threads that watch files and ask for readiness only put
calls into a queue. Nothing blocks the loop for long, so Ctrl-C always counts at once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import time
from collections.abc import Callable, Iterable
from functools import partial

from app import catalog
from app.catalog.model import Catalog
from app.domain.errors import ConfigurationError, StoreUnavailable
from app.settings import Settings
from app.web import binding
from tools import processes
from tools.embedded_store import EmbeddedStore
from tools.processes import Running
from tools.readiness import Readiness
from tools.reload import Reload
from tools.watch import Contents, Watcher, differences

LOOK_SECONDS = 0.1

END_SECONDS = 10.0
"""What the processes need beyond SHUTDOWN_GRACE, to hand back what they run."""

STORE_SECONDS = 10.0
STORE_SECONDS_AT_ONCE = 1.0
"""The store's time to end. With the second Ctrl-C it is killed after this time; what it has
confirmed is in its log by then, or lost with the last second (`appendfsync everysec`)."""

AT_ONCE = 2
"""So many requests to stop end everything at once."""

Say = Callable[[str], None]


class Launcher:
    """`say` prints what happens; `complain` prints what is wrong."""

    def __init__(self, say: Say, complain: Say):
        self._say, self._complain = say, complain
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stops = 0
        self._running: list[Running] = []
        self._changed: Contents | None = None
        self._loaded: Contents = {}
        self._reload: Reload | None = None
        self._checking: subprocess.Popen[bytes] | None = None
        self._is_ready = False

    def request_stop(self, *_: object) -> None:
        """Handles a signal: the first one ends everything in order, the second one at once."""
        self._stops += 1

    @property
    def store_seconds(self) -> float:
        return STORE_SECONDS if self._stops < AT_ONCE else STORE_SECONDS_AT_ONCE

    def run(self, chosen: Settings, known: Catalog, store: EmbeddedStore | None) -> int:
        """Returns the exit code when everything has ended."""
        if self._stops:
            return 0
        self._chosen = chosen
        folders = [*chosen.agents_path, *chosen.pipelines_path]
        watcher = Watcher(folders, self._later(self._note_change), self._later(self._cannot_watch))
        self._loaded = watcher.first
        host = binding.THIS_MACHINE if chosen.host in (None, "0.0.0.0", "::") else chosen.host  # noqa: S104
        ready = self._later(partial(self._say_ready, known, store, time.monotonic()))
        readiness = Readiness(host, chosen.port, ready, self._later(self._say_missing))
        self._running = [Running.start(*line) for line in processes.commands().items()]
        self._check_entrypoints()
        readiness.start()
        watcher.start()
        try:
            return self._loop()
        finally:
            readiness.stop()
            watcher.stop()
            self._end_check()
            self._end()

    def _later(self, call: Callable[..., None]) -> Callable[..., None]:
        """Makes a function that other threads may call: the main thread runs it."""
        return lambda *arguments: self._calls.put(partial(call, *arguments))

    def _loop(self) -> int:
        while not self._stops:
            with contextlib.suppress(queue.Empty):
                self._calls.get(timeout=LOOK_SECONDS)()
            for running in self._running:
                if running.has_ended() and not self._start_again(running):
                    return 1
            self._reload_if_changed()
        return 0

    def _start_again(self, ended: Running) -> bool:
        code = ended.process.returncode
        if reason := ended.start_again():
            self._complain(f"{reason} Stopping.")
            return False
        self._complain(f"{ended.name} ended (exit code {code}). Started again.")
        return True

    # The start.

    def _say_ready(self, known: Catalog, store: EmbeddedStore | None, began_at: float) -> None:
        self._is_ready = True
        pids = [f"{running.name} {running.process.pid}" for running in self._running]
        pids += [f"store {store.pid}"] if store else []
        url, ours = os.environ["REDIS_URL"], f"http://localhost:{self._chosen.port}"
        dashboard = f"{ours}/ and " if self._chosen.ui else ""
        self._say(
            f"\nready after {time.monotonic() - began_at:.1f} s: {dashboard}{ours}/docs/\n"
            f"  {_named('agent', known.agents)}\n"
            f"  {_named('pipeline', known.pipelines)}\n"
            f"  process ids: {', '.join(pids)}\n"
            f"  REDIS_URL={url if '@' not in url else '(set)'}\n"  # a password stands before the @
            "  Changed agents and pipelines are loaded at once.\n"
            "  Ctrl-C stops the service: running executions get "
            f"{self._chosen.shutdown_grace:g} s to end. A second Ctrl-C ends everything at once.\n"
        )

    def _say_missing(self, reasons: str) -> None:
        self._complain(f"Not ready yet: {reasons}")

    # Changes of files.

    def _note_change(self, now: Contents) -> None:
        self._changed = now

    def _cannot_watch(self, reason: str) -> None:
        self._complain(f"Files cannot be watched ({reason}); they are compared every 2 s instead.")

    def _reload_if_changed(self) -> None:
        """One reload after the other; what changes meanwhile is the next one."""
        if self._reload is not None:
            if (end := self._reload.end()) is None:
                return
            self._reload = None
            self._say(end)
        if self._changed is None or not self._is_ready:
            return
        now, self._changed = self._changed, None
        what = differences(self._loaded, now) or "the files are as before"
        try:
            catalog.load(self._chosen.agents_path, self._chosen.pipelines_path)
        except ConfigurationError as error:
            self._complain(f"not reloaded, the old version stays in use: {what}\n{error}")
            return
        self._loaded = now
        self._reload = Reload(what, self._running)
        self._check_entrypoints()

    def _check_entrypoints(self) -> None:
        """Has all flows imported in a process of its own, which says what fails."""
        self._end_check()
        self._checking = processes.check_entrypoints()

    def _end_check(self) -> None:
        if self._checking is not None:
            self._checking.kill()
            self._checking.wait()

    # The end.

    def _end(self) -> None:
        processes.terminate(self._running)
        if self._stops:
            self._say_what_ends()
        deadline = time.monotonic() + self._chosen.shutdown_grace + END_SECONDS
        while not all(running.has_ended() for running in self._running):
            if self._stops >= AT_ONCE or time.monotonic() > deadline:
                self._complain("Ending everything at once. Executions that are cut off run again.")
                processes.kill([running for running in self._running if not running.has_ended()])
                return
            time.sleep(LOOK_SECONDS)

    def _say_what_ends(self) -> None:
        runs = self._count_running()
        waits = (
            f" Waiting for {runs} running execution{'s' if runs > 1 else ''}, for up to "
            f"{self._chosen.shutdown_grace:g} s; what has not ended by then goes back to the queue."
            if runs
            else ""
        )
        self._say(f"\nStopping.{waits} Press Ctrl-C again to end everything at once.")

    def _count_running(self) -> int:
        # Imported late, because the client of the store takes a third of a second to load.
        from app import settings
        from app.store.statistics import Statistics

        try:
            return Statistics.connect(settings.load()).read().running
        except StoreUnavailable:
            return 0


def _named(kind: str, targets: Iterable[str]) -> str:
    names = sorted(targets)
    return f"{len(names)} {kind}{'' if len(names) == 1 else 's'}: {', '.join(names) or 'none'}"
