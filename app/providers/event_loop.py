"""Runs the model calls of a process in one event loop, in a thread of its own.

`openai_provider.py` submits its calls here. Flows have another loop (`app/runtime/loop.py`),
because a flow that blocks its loop must not delay the model calls of others.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class EventLoopThread:
    """Starts with the first coroutine, and again after a fork, which threads do not survive.

    `generation` counts the starts, because connections of one loop cannot be used in the next one.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.generation = 0

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs a coroutine in the loop.

        Raises `RuntimeError` or `OSError` if the loop cannot be started; the next call tries again.
        """
        try:
            loop = self._started()
        except BaseException:
            coroutine.close()  # or Python warns that it was never awaited
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Runs `last`, then ends the loop. No other coroutine may be running."""
        if self._loop is None or self._thread is None:
            last.close()
            return
        asyncio.run_coroutine_threadsafe(last, self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop, self._thread = _start()
                self.generation += 1
            return self._loop


def _start() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    # Both or neither: the callers of a loop without a thread would wait for ever.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="models", daemon=True)
    try:
        thread.start()
    except BaseException:
        loop.close()
        raise
    return loop, thread
