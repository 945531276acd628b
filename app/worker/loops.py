"""Helpers for the loops of a worker: register it, run one for life, wait for something or for the
end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from app.domain.errors import StoreUnavailable
from app.store.registration import Registration
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog

RESTART_SECONDS = 1.0
"""The pause before a loop that failed with an error of its own runs again."""

log = structlog.get_logger(__name__)


async def register(registration: Registration, outage: OutageLog, stopping: asyncio.Event) -> None:
    """Registers a worker with RQ, whose tools then show it.

    Tries until that succeeds, or the worker stops.
    """
    while not stopping.is_set():
        try:
            await registration.begin()
        except (StoreUnavailable, RuntimeError) as error:
            # RuntimeError: the machine has no room for another thread.
            outage.refused("register", error)
            await unless(stopping, asyncio.sleep(RETRY_STORE_SECONDS))
        else:
            outage.done("register")
            return


async def for_life(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a loop to its end. An error in it is logged and the loop runs again: nothing else that
    the worker does may suffer from it.
    """
    while True:
        try:
            return await loop()
        except Exception:
            log.exception("loop_broke", loop=loop.__name__)
            await asyncio.sleep(RESTART_SECONDS)


async def unless(event: asyncio.Event, waiting: Awaitable[Any]) -> None:
    """Waits for something, or for the event, whichever comes first."""
    work, end = asyncio.ensure_future(waiting), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        # Otherwise asyncio would log an error that comes now, and that nobody reads.
        work.add_done_callback(_ignore_error)
        work.cancel()
        end.cancel()


async def at_most(seconds: float, waiting: Awaitable[Any]) -> None:
    """Waits for something, but no longer than this."""
    try:
        await asyncio.wait_for(waiting, seconds)
    except TimeoutError:
        return


def _ignore_error(work: asyncio.Future[Any]) -> None:
    if not work.cancelled():
        work.exception()
