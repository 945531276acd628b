"""Limits how many suspected executions run at once. `main` makes it, `attempt` enters it.

An execution is suspected if it was running when its process or its worker died. It then runs in a
child of its own, so that it cannot harm others again: that is the pattern's name, bulkhead.
"""

from __future__ import annotations

import asyncio

PLACES = 4
"""How many suspects run at once: every one of them costs a fork and the memory of a process."""

MAX_WAITING = 8
"""If more suspects wait, they go back to the queue, where another worker may claim them."""

AWAY_SECONDS = 2.0
"""How long such suspects are delayed, so that this worker does not claim them again at once."""


class Bulkhead:
    """Gives places to suspects. All pools of a worker process share one. A run that must be the
    only one takes all places.
    """

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._places = asyncio.Semaphore(PLACES)
        self._waiting = 0

    @property
    def is_crowded(self) -> bool:
        return self._waiting >= MAX_WAITING

    async def enter(self, sole: bool) -> int:
        """Waits for its turn. Returns the number of places that it got; `leave` gives them back."""
        wanted, taken = PLACES if sole else 1, 0
        self._waiting += 1
        try:
            # One at a time collects its places: two that need all of them would else deadlock.
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
