"""Makes calls that must end soon, although the store may send its answer byte by byte."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.domain.errors import StoreUnavailable

ANSWER_SECONDS = 1.8
"""How long the store may take, so that an answer arrives within two seconds. The call is made in a
thread that can be left behind, because a socket's timeout starts again with every byte.
"""

SILENT_SECONDS = 1.0
"""How long it is said at once that the store is away, after it did not answer in time."""

Found = TypeVar("Found")


class InTime:
    """Safe to use from many threads."""

    def __init__(self, threads: int):
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="store-check")
        self._silent_until = 0.0

    def __call__(self, call: Callable[[], Found]) -> Found:
        """Makes the call in a thread. Raises `StoreUnavailable` if it takes over `ANSWER_SECONDS`.

        For `SILENT_SECONDS` after that, it raises at once. The threads are still busy with the old
        calls then, so new ones would only wait for a thread.
        """
        if time.monotonic() < self._silent_until:
            raise StoreUnavailable("The store does not answer in time.")
        try:
            return self._threads.submit(call).result(ANSWER_SECONDS)
        except TimeoutError:
            self._silent_until = time.monotonic() + SILENT_SECONDS
            raise StoreUnavailable("The store does not answer in time.") from None
