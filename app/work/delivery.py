"""Writes what attempts did and how they ended into the store, in order, until it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from app.errors import StoreUnavailable
from app.work.attempt import Entry
from app.work.ledger import Ledger
from app.work.outage import RETRY_STORE_SECONDS, OutageLog
from app.work.runs import Runs


class Delivery:
    """Takes `runs.entries`, up to `limit` in one round trip. `on_release` is called for each that was queued again."""

    def __init__(self, ledger: Ledger, runs: Runs, outage: OutageLog, limit: int, on_release: Callable[[], None]):
        self._ledger, self._runs, self._outage = ledger, runs, outage
        self._limit, self._on_release = limit, on_release
        self._left: list[Entry] = []

    async def run(self) -> NoReturn:
        """What failed together is begun with its first alone: a store may hang up on one that it can not read,
        and so on all that were sent with it.
        """
        at_once = self._limit
        while True:
            await self._take()
            sent = self._left[:at_once]
            words = await self._try_to_write(sent)
            if words is None:
                at_once = 1
                await asyncio.sleep(RETRY_STORE_SECONDS)
                continue
            self._left, at_once = self._left[at_once:], self._limit
            for entry, word in zip(sent, words, strict=True):
                self._runs.written(entry, word)
                if entry.script == "release":
                    self._on_release()

    async def _take(self) -> None:
        """Waits until there is something to write, and adds what else is there."""
        queue = self._runs.entries
        if not self._left:
            self._left.append(await queue.get())
        while not queue.empty() and len(self._left) < self._limit:
            self._left.append(queue.get_nowait())

    async def _try_to_write(self, entries: Sequence[Entry]) -> list[str] | None:
        try:
            words = await self._ledger.write(entries)
        except StoreUnavailable as error:
            self._outage.refused("write", error)
            return None
        self._outage.done("write")
        return words
