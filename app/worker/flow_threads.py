"""Runs flows in threads, which are kept for the next flow. Used by `child`.

There are as many threads as flows ever ran at once. `ThreadPoolExecutor` would limit their number
and queue the rest, but the worker has already decided that there is a free slot.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class FlowThreads:
    """Keeps the threads. Each thread calls `for_life` once, with the function that runs the next
    flow. `for_life` calls this function again and again until the process ends.
    """

    def __init__(self, for_life: Callable[[Callable[[], None]], object]):
        self._for_life = for_life
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0

    def start(self, act: Callable[[], None]) -> None:
        """Calls `act` in a thread. Raises `RuntimeError` or `MemoryError` if a new thread is needed
        and cannot be started.
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
