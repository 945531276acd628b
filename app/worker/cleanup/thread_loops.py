"""Makes `asyncio.get_event_loop()` work in the threads of flows, as in a program's main thread.

`child` installs it as asyncio's policy in a process of threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading


class ThreadLoops(asyncio.DefaultEventLoopPolicy):
    """Makes a loop for a thread that asks for one and has none."""

    def __init__(self) -> None:
        super().__init__()
        self._made = threading.local()

    def get_event_loop(self) -> asyncio.AbstractEventLoop:
        try:
            return super().get_event_loop()
        except RuntimeError:  # not the main thread, and none was set
            self._made.loop = loop = self.new_event_loop()
            self.set_event_loop(loop)
            return loop

    def end_run(self) -> None:
        """Closes the loop of this thread. To be called in the thread, after the run."""
        loop = getattr(self._made, "loop", None)
        self.set_event_loop(None)
        if loop is None or loop.is_closed():
            return
        self._made.loop = None
        with contextlib.suppress(RuntimeError):  # it is running, in a thread that was left behind
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
