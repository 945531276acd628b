"""Has the processes of `make run` load agents and pipelines again, and sees when that has happened.

The processes reload on SIGHUP, as on a server. The web master lets new processes take over from the
old ones; a worker gives new executions to new children, and the old ones finish what they run. So a
reload is over when the processes below the web are others, and the worker has new ones.

The web master first loads everything in a process that ends again. If no other process follows it,
the files could not be loaded: somebody has saved a mistake in that moment.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence

from tools.processes import Running

SECONDS = 30.0
"""The longest wait. An old web process may have to finish a long answer; it takes no new ones."""

REFUSED_SECONDS = 5.0
"""How long no new web process must follow the one that tries. It is a moment if all is well."""


class Reload:
    """One reload. `what` says what has changed."""

    def __init__(self, what: str, running: Sequence[Running]):
        self._what, self._began_at = what, time.monotonic()
        self._before = [(one, one.process.pid, one.children()) for one in running]
        self._tried_at: float | None = None
        for one in running:
            with contextlib.suppress(ProcessLookupError):
                one.process.send_signal(signal.SIGHUP)

    def end(self) -> str | None:
        """Returns the line that says how it ended, or None if it has not ended."""
        waiting = [one.name for one, pid, old in self._before if not _is_new(one, pid, old)]
        if not waiting:
            return f"reloaded: {self._what}"
        if self._is_refused():
            return f"not reloaded by web, which has met a mistake: {self._what}"
        if time.monotonic() - self._began_at > SECONDS:
            return f"reloaded: {self._what} (not confirmed by {', '.join(waiting)}; see the log)"
        return None

    def _is_refused(self) -> bool:
        """Whether the web has tried to load the files, and keeps its old processes."""
        now = time.monotonic()
        for one, pid, old in self._before:
            if one.name == "web" and one.process.pid == pid and one.children() - old:
                self._tried_at = now
        return self._tried_at is not None and now - self._tried_at > REFUSED_SECONDS


def _is_new(running: Running, pid: int, old: set[int]) -> bool:
    if running.process.pid != pid:
        return True  # it was started again, and loads everything at its start
    now = running.children()
    if running.name == "web":
        return bool(now) and now.isdisjoint(old)
    return bool(now - old)
