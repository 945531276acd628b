"""Python's garbage collector, set for a process that has loaded everything and lives long."""

from __future__ import annotations

import gc

NEW_OBJECTS = 20_000
"""Before the collector looks for cycles among them. With 700, Python's default, it goes through all that a thousand
waiting runs hold again and again; a web process goes through all that it has loaded.
"""


def settle() -> None:
    """What is loaded now is not looked at again (and so is not copied after a fork), and what comes is, seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 20)
