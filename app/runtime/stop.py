"""The stop signal of a run: set from outside, seen by the flow, by its model calls and by its steps."""

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
        """Asks the run to end: every subscriber is called, once, in the caller's thread."""
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            callback()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Sleeps until the stop is requested or the time is over; True when it was requested."""
        return self._event.wait(timeout_seconds)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` when the stop is requested, at once if it was already. Returns the un-subscribe."""
        with self._lock:
            key, self._next = self._next, self._next + 1
            now = self.requested
            if not now:
                self._callbacks[key] = callback
        if now:
            callback()

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks.pop(key, None)

        return unsubscribe

    @contextlib.contextmanager
    def sheltered(self) -> Iterator[StopSignal]:
        """A signal for one flow: it follows this one, and a request of its own reaches nobody else.

        Whether a run was asked to end is decided by those outside it, never by its flow.
        """
        own = StopSignal()
        unsubscribe = self.subscribe(own.request)
        try:
            yield own
        finally:
            unsubscribe()
