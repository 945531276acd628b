"""Measures what code costs: in CPU time, so that other programs of a busy machine do not count."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any


def cpu_seconds(run: Callable[[], Any], calls: int = 3) -> float:
    """Returns the CPU time of this process that `run` takes, the least of so many calls.

    The least is the code's own. The other calls also paid for cold caches, or for a thread that
    another test has left. The collector of garbage waits meanwhile: what it costs grows with all
    that the test process holds. Of code that remembers its results, only the first call counts:
    `calls=1`.
    """
    took = []
    gc.disable()
    try:
        for _ in range(calls):
            began = time.process_time()
            run()
            took.append(time.process_time() - began)
    finally:
        gc.enable()
    return min(took)
