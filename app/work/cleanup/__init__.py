"""A run leaves nothing behind: what a flow changed in its process is put back, or the process is replaced.

`state` is the table of what can be put back. `docs/agents.md` says the same to those who write flows.
"""

from app.work.cleanup.cleanup import Cleanup
from app.work.cleanup.processes import forks_are_plain, kill_descendants, kill_process
from app.work.cleanup.streams import Streams
from app.work.cleanup.thread_loops import ThreadLoops

__all__ = ["Cleanup", "Streams", "ThreadLoops", "forks_are_plain", "kill_descendants", "kill_process"]
