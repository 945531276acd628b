"""Measures for how long a child has not answered its worker, although it could have.

`child_process` owns one `Liveness` per child and asks the questions. `hang_watch` calls `sample`
twice a second, which adds up the silence.
"""

from __future__ import annotations

from app.worker.thread_stats import ThreadStats, busiest, hindrance

QUIET_SECONDS = 1.5
"""A child that is silent for this long gets nothing new until it answers."""

LEAST_SHARE = 0.2
"""A second in which the machine kept the child from answering still counts for this share of a
second: otherwise a child on a busy machine could hang for ever.
"""


class Liveness:
    """The silence of one child. The worker asks about once a second; every byte that the child
    sends is an answer.

    One sample adds at most `longest_seconds` of silence. If the worker's own loop was blocked, or
    the machine slept, the time between two samples is long, but proves nothing about the child.
    """

    def __init__(self, longest_seconds: float):
        self._longest_seconds = longest_seconds
        self.asked = 0
        self.silent_seconds = 0.0
        self._is_waiting = False
        self._sampled_at: float | None = None
        self._first: ThreadStats | None = None
        self._last: ThreadStats | None = None

    def ask(self) -> int:
        """Starts to wait. Returns the number of the question, which the child's answer repeats."""
        self.asked += 1
        self._is_waiting = True
        return self.asked

    def note_answer(self) -> None:
        """Ends the silence. Called when the child has sent something."""
        self._is_waiting = False
        self.silent_seconds = 0.0
        self._sampled_at = None
        self._first = None
        self._last = None

    @property
    def is_quiet(self) -> bool:
        return self.silent_seconds >= QUIET_SECONDS

    def sample(self, now: float, threads: ThreadStats) -> None:
        """Adds the part of the time since the last sample in which the child could have answered.

        `now` is in seconds of a monotonic clock, `threads` are the child's at this moment.
        """
        if not self._is_waiting:
            return
        if self._sampled_at is not None and self._last is not None:
            elapsed_seconds = now - self._sampled_at
            share = max(LEAST_SHARE, 1.0 - hindrance(self._last, threads, elapsed_seconds))
            self.silent_seconds += min(elapsed_seconds, self._longest_seconds) * share
        self._first = self._first or threads
        self._sampled_at, self._last = now, threads

    def holders(self) -> list[int]:
        """Returns the ids of threads that computed during the whole silence while no other did."""
        return busiest(self._first, self._last) if self._first and self._last else []

    @property
    def is_waiting(self) -> bool:
        return self._is_waiting

    @property
    def threads(self) -> ThreadStats:
        """The threads at the last sample."""
        return self._last or {}
