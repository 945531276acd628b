"""Waits and time limits of tests, which a busy machine stretches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_LOAD = Path("/proc/loadavg")


def within(seconds: float) -> float:
    """Returns how long something may take here that takes at most `seconds` on a quiet machine.

    If three processes compete for each processor, everything takes three times as long.
    """
    minute, _, _, running, *_ = _LOAD.read_text().split()
    wanting = max(float(minute), float(running.partition("/")[0]))
    return seconds * max(1.0, wanting / (os.cpu_count() or 1))


def until(happened: Callable[[], object], seconds: float = 60) -> None:
    """Returns when `happened()` is true. Fails if that takes longer than `within(seconds)`."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < within(seconds), "It has not happened in time."
        time.sleep(0.02)
