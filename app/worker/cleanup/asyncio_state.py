"""What a flow may have done to asyncio: to its policy, to the main thread's loop, to the process's
own loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import Any

from app.runtime.loop import the_loop

LEFT_OVER_SECONDS = 1.0


def put_back() -> str:
    """Why that cannot be done, or nothing.

    `asyncio.get_event_loop()` works in the next run as in a fresh Python. A loop that a flow got by
    it and did not close stays, since a client of the flow's module may belong to it; its tasks do
    not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later versions of Python warn of policies
        policy = asyncio.get_event_loop_policy()
        loop = getattr(getattr(policy, "_local", None), "_loop", None)
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
        with contextlib.suppress(
            BaseException
        ):  # it may still run, in a thread that was left behind
            loop.run_until_complete(asyncio.wait(tasks, timeout=LEFT_OVER_SECONDS))
