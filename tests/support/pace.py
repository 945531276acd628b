"""Promises about time, on a machine that has other work to do."""

from __future__ import annotations

import os
from pathlib import Path

_LOAD = Path("/proc/loadavg")


def within(seconds: float) -> float:
    """How long what is promised within `seconds` may take here: as long on a quiet machine, longer
    on a busy one.

    Where three processes want each processor, everything takes three times as long, and no promise
    is broken.
    """
    minute, _, _, running, *_ = _LOAD.read_text().split()
    wanting = max(float(minute), float(running.partition("/")[0]))
    return seconds * max(1.0, wanting / (os.cpu_count() or 1))
