"""`asyncio.get_event_loop()` in the threads of flows: it gives a loop there, as in the main thread
of a program.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading


class ThreadLoops(asyncio.DefaultEventLoopPolicy):
    """Makes a loop for a thread that asks for one and has none. `end_run` closes it, in the same
    thread.
    """

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
        """What the run has left in this thread's loop ends with it."""
        loop = getattr(self._made, "loop", None)
        self.set_event_loop(None)
        if loop is None or loop.is_closed():
            return
        self._made.loop = None
        with contextlib.suppress(RuntimeError):  # it runs, in a thread that was left behind
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
