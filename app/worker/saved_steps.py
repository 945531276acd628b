"""Reads the steps that earlier attempts stored. Called by `attempt` before it starts the flow."""

from __future__ import annotations

import asyncio

import structlog

from app.domain.errors import StoreRefused, StoreUnavailable
from app.store.attempt_store import AttemptStore
from app.store.connection import refuses_everybody
from app.worker.outage import RETRY_STORE_SECONDS
from app.worker.start_message import SavedSteps
from app.worker.writer import PAUSES_SECONDS

log = structlog.get_logger(__name__)


class StepsUnreadable(Exception):
    """The stored steps cannot be read; the message says why, for the user of the execution."""


async def read_saved_steps(store: AttemptStore, id: str, names: dict[str, object]) -> SavedSteps:
    """Reads until the store answers, however long an outage takes. Raises `StepsUnreadable`.

    `names` go into the log line of a failure.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + sum(PAUSES_SECONDS)
    while True:
        try:
            return await store.read_steps(id)
        except StoreRefused as error:
            log.error("steps_unreadable", **names, error=str(error.__cause__ or error))
            raise StepsUnreadable("The stored steps cannot be read.") from error
        except StoreUnavailable as error:
            # The minute counts only while the store answers other calls: in an outage, nothing is
            # known about these steps.
            if refuses_everybody(error) or not await store.answers():
                deadline = loop.time() + sum(PAUSES_SECONDS)
            elif loop.time() > deadline:
                raise StepsUnreadable(
                    "The stored steps could not be read within a minute."
                ) from error
            await asyncio.sleep(RETRY_STORE_SECONDS)
