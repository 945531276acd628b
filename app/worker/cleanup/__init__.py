"""A run leaves nothing behind: what a flow changed in its process is put back, or the process is
replaced.

`state` is the table of what can be put back. `docs/agents.md` says the same to those who write
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
