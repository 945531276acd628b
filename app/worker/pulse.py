"""Whether a child answers its worker, and how long it has not, although it could have."""

from __future__ import annotations

from app.worker.threads_of import Threads, busiest, hindrance

QUIET_SECONDS = 1.5
"""A child that is silent for so long gets nothing new, until it answers."""

LEAST_SHARE = 0.2
"""A second in which the machine kept the child from answering counts for at least so much:
nobody waits for ever.
"""


class Pulse:
    """Of one child. The worker asks about once a second, and every byte that the child sends is an
    answer.

    Time counts as silence only in pieces of at most `longest_seconds`, each seen by a look: while
    the worker's own loop is held, or the machine sleeps, nobody looks.
    """

    def __init__(self, longest_seconds: float):
        self._longest_seconds = longest_seconds
        self.asked = 0
        self.silent_seconds = 0.0
        self._is_waiting = False
        self._looked_at: float | None = None
        self._first: Threads | None = None
        self._last: Threads | None = None

    def ask(self) -> int:
        """The number of the next question. The child answers with the same."""
        self.asked += 1
        self._is_waiting = True
        return self.asked

    def heard(self) -> None:
        """The child has sent something."""
        self._is_waiting = False
        self.silent_seconds, self._looked_at, self._first, self._last = 0.0, None, None, None

    @property
    def is_quiet(self) -> bool:
        return self.silent_seconds >= QUIET_SECONDS

    def look(self, now: float, threads: Threads) -> None:
        """Adds the time since the last look, as far as the child could have answered in it."""
        if not self._is_waiting:
            return
        if self._looked_at is not None and self._last is not None:
            elapsed_seconds = now - self._looked_at
            share = max(LEAST_SHARE, 1.0 - hindrance(self._last, threads, elapsed_seconds))
            self.silent_seconds += min(elapsed_seconds, self._longest_seconds) * share
        self._first = self._first or threads
        self._looked_at, self._last = now, threads

    def holders(self) -> list[int]:
        """The threads that have computed all the time, while no other one did."""
        return busiest(self._first, self._last) if self._first and self._last else []

    @property
    def is_waiting(self) -> bool:
        return self._is_waiting

    @property
    def threads(self) -> Threads:
        """As they were at the last look."""
        return self._last or {}
