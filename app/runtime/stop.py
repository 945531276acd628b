"""The stop signal of a run. A cancel or a timeout sets it; flows, model calls and steps check it.

A child process makes one `StopSignal` for each attempt (`app/worker/child_run.py`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class StopSignal:
    """Set once, never cleared. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next = 0

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        """Asks the run to end. Calls each subscriber once, in the caller's thread."""
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, {}
        # Outside of the lock, which is not reentrant: a callback may use this signal.
        for callback in callbacks.values():
            callback()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Returns when the stop is requested or the time is over. True if it was requested."""
        return self._event.wait(timeout_seconds)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` once when the stop is requested, or now if it was requested already.

        Returns a function that unsubscribes; it may be called any number of times.
        """
        with self._lock:
            key = self._next
            self._next += 1
            already_requested = self.requested
            if not already_requested:
                self._callbacks[key] = callback
        if already_requested:
            callback()

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks.pop(key, None)

        return unsubscribe

    @contextlib.contextmanager
    def follower(self) -> Iterator[StopSignal]:
        """A signal for one flow. It follows this one, but its own requests do not reach this one.

        Otherwise a flow that requests its own stop could make its failure look like a cancel.
        """
        own = StopSignal()
        unsubscribe = self.subscribe(own.request)
        try:
            yield own
        finally:
            unsubscribe()
