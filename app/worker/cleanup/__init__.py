"""Undoes what a flow changed in its process, so that the next run finds it as it was.

`child` calls it around each run. What cannot be undone makes the process unfit, and the worker
replaces it. `state` has the table of what can be undone; `docs/agents.md` tells the authors of
flows.
"""

from app.worker.cleanup.cleanup import Cleanup
from app.worker.cleanup.processes import forks_are_plain, kill_descendants, kill_process
from app.worker.cleanup.streams import Streams
from app.worker.cleanup.thread_loops import ThreadLoops

__all__ = [
    "Cleanup",
    "Streams",
    "ThreadLoops",
    "forks_are_plain",
    "kill_descendants",
    "kill_process",
]
