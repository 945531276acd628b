"""Tunes Python's garbage collector for a process that has loaded everything and lives long.

Called once by each web process (`app.web.lifecycle`), and by the worker before it forks its
children.
"""

from __future__ import annotations

import gc

NEW_OBJECTS = 20_000
"""How many new objects start a collection.

Python's default is 700. With that, the collector would visit everything that a thousand waiting
runs hold, again and again.
"""

OLDER_GENERATIONS = 20
"""How many collections of one generation start one of the next. Python's default is 10."""


def settle() -> None:
    """Collects once, exempts what is loaded now from later collections, and makes these rare."""
    gc.collect()
    # After a fork, the collector would write to the header of every object that it visits, and so
    # copy the page. It does not visit frozen objects, so the children keep sharing them.
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, OLDER_GENERATIONS, OLDER_GENERATIONS)
