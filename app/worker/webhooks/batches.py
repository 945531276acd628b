"""Makes calls to the store together: those that come while one is on its way go with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from app.domain.errors import StoreRefused, StoreUnavailable
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog

Item = TypeVar("Item")
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Batches(Generic[Item, Result]):
    """Belongs to one event loop. `run` works until it is cancelled.

    `call` takes up to `most` items, and returns a result for each. It is called again until the
    store answers. `name` is what the log calls it.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[list[Item]], Awaitable[list[Result]]],
        most: int,
        outage: OutageLog,
    ):
        self._name, self._call, self._most, self._outage = name, call, most, outage
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._arrived = asyncio.Event()

    async def __call__(self, item: Item) -> Result:
        """The result for this item, however long that takes. Raises `StoreRefused`."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        self._arrived.set()
        return await result

    async def run(self) -> None:
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            sent = self._waiting[: self._most]
            try:
                results = await self._results([item for item, _ in sent])
            except StoreUnavailable as error:
                self._outage.refused(self._name, error)
                await asyncio.sleep(RETRY_STORE_SECONDS)
                continue
            self._outage.done(self._name)
            self._waiting = self._waiting[len(sent) :]
            for (_, future), result in zip(sent, results, strict=True):
                if future.done():
                    continue  # whoever waited was cancelled
                if isinstance(result, StoreRefused):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    async def _results(self, items: list[Item]) -> list[Result | StoreRefused]:
        """The results, each of which may be an error. After an error that is not an outage, each
        item is called alone: one that cannot be done must not stop the others.
        """
        try:
            return list(await self._call(items))
        except Exception as error:
            if isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused):
                raise
            if len(items) > 1:
                return [result for item in items for result in await self._results([item])]
            log.exception("call_refused", call=self._name)
            return [error if isinstance(error, StoreRefused) else StoreRefused()]
