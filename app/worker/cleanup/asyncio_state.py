"""Resets asyncio after a run: its policy, the main thread's loop, and the service's loop for flows.

Called by `cleanup` in a process that runs one flow at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import Any

from app.runtime.loop import the_loop

LEFT_OVER_SECONDS = 1.0
"""How long tasks that the run left in the loop may take to end."""


def put_back() -> str:
    """Resets asyncio, so that `get_event_loop()` works in the next run as in a fresh Python.

    Returns why that is impossible, or an empty string.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later versions of Python warn of policies
        policy = asyncio.get_event_loop_policy()
        loop = getattr(getattr(policy, "_local", None), "_loop", None)
        # A loop that the flow did not close stays, because a client in the flow's module may belong
        # to it. Its tasks end.
        if (
            type(policy) is asyncio.DefaultEventLoopPolicy
            and loop is not None
            and not loop.is_closed()
        ):
            _end_left_overs(loop)
        else:
            asyncio.set_event_loop_policy(None)
    return the_loop.put_back()


def _end_left_overs(loop: Any) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        # RuntimeError if the loop still runs, in a leaked thread; a flow's task may raise anything.
        with contextlib.suppress(BaseException):
            loop.run_until_complete(asyncio.wait(tasks, timeout=LEFT_OVER_SECONDS))
