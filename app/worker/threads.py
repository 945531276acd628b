"""Threads that run what is given to them: as many as were ever needed at once, kept for the next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Threads:
    """`for_life` is what each thread calls with its work, again and again, until the process ends."""

    def __init__(self, for_life: Callable[[Callable[[], None]], object]):
        self._for_life = for_life
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0

    def start(self, act: Callable[[], None]) -> None:
        """Has a thread call it. Raises `RuntimeError` or `MemoryError` where none can be started
        for it.
        """
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(
                    target=self._for_life, args=(self._next,), name="flow", daemon=True
                ).start()
        self._waiting.put(act)

    def _next(self) -> None:
        self._waiting.get()()
        with self._lock:
            self._idle += 1
