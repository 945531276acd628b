"""Keeps executions under suspicion apart: those that were running when their process or their
worker died.
"""

from __future__ import annotations

import asyncio

PLACES = 4
"""How many of them run at once in one worker's process, each in a child of its own."""

MOST_WAITING = 8
"""More of them go back to the queue for `AWAY_SECONDS`, where another worker may take them."""

AWAY_SECONDS = 2.0


class Bulkhead:
    """One for all pools of a worker's process. Whoever is to be the only one takes all places."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._places = asyncio.Semaphore(PLACES)
        self._waiting = 0

    @property
    def is_crowded(self) -> bool:
        return self._waiting >= MOST_WAITING

    async def enter(self, sole: bool) -> int:
        """Waits for its turn. Returns how many places it has now; `leave` gives them back."""
        wanted, taken = PLACES if sole else 1, 0
        self._waiting += 1
        try:
            async with self._door:
                while taken < wanted:
                    await self._places.acquire()
                    taken += 1
        except BaseException:
            self.leave(taken)
            raise
        finally:
            self._waiting -= 1
        return taken

    def leave(self, places: int) -> None:
        for _ in range(places):
            self._places.release()
