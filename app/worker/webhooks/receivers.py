"""Shares the places of a worker out among receivers, so that a dead one does not take them all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urlsplit

SHARE = 4
"""One host gets this part of the places at most: a quarter."""

LEAST = 2
"""A host that does not answer still gets so many places: that is how it is found to be back."""

HELD_SECONDS = 4.0
"""How long a delivery waits here for a place of its host. By default this is longer than the pause
between two reaps, which bring back what is set aside: so a host that is owed many always has some
to go on with.
"""

MOST_HELD = 4
"""So many deliveries may wait here for each place of the worker. They take no place themselves. If
there are more, no further ones are taken from the queue, for `HELD_SECONDS` at most.
"""

LONGEST_PAUSE_SECONDS = 60.0
"""The longest pause of a delivery that is set aside."""

MOST_HOSTS = 10_000
"""More hosts than this are not remembered while nothing is sent to them."""


def host_of(url: str) -> str:
    """The host that a delivery goes to; empty if the URL has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@dataclass(slots=True)
class _Host:
    """`silent` is how many tries in a row had no answer. `moved_at` is when it last answered, or
    got its first place.
    """

    busy: int = 0
    silent: int = 0
    moved_at: float = 0.0
    took_seconds: float = 0.0
    turn_at: float = 0.0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Receivers:
    """Gives places to the tries of each host. Belongs to one event loop.

    With each try that gets no answer, a host's places are halved. With the next answer it has all
    of them again. A delivery that finds no place waits here if it will soon have one. Otherwise it
    is set aside: it goes back to the store for as long as those before it need. So neither a dead
    host nor a slow one that is owed many holds up those behind it in the queue.
    """

    def __init__(self, places: int):
        self._most = max(LEAST, places // SHARE)
        self._hosts: dict[str, _Host] = {}
        self.held = 0

    async def enter(self, name: str) -> float:
        """Takes a place and returns 0; otherwise returns for how long to set the delivery aside."""
        host = self._hosts.setdefault(name, _Host())
        if host.busy < self._places(host):
            if not host.busy:
                host.moved_at = time.monotonic()
            host.busy += 1
            return 0.0
        if self._is_slow(host) or not await self._turn(host):
            return self._pause(host)
        return 0.0

    def leave(self, name: str, seconds: float, *, answered: bool) -> None:
        """Frees the place of a try that took so long."""
        host = self._hosts[name]
        host.busy -= 1
        host.took_seconds = seconds
        host.silent = 0 if answered else host.silent + 1
        if answered:
            host.moved_at = time.monotonic()
        while host.waiting and host.busy < self._places(host):
            turn = host.waiting.popleft()
            if not turn.done():  # it has waited for too long
                host.busy += 1
                turn.set_result(None)
        if len(self._hosts) > MOST_HOSTS and not host.busy and not host.waiting:
            del self._hosts[name]

    async def _turn(self, host: _Host) -> bool:
        """Waits for a place. Returns whether there was one in time."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        host.waiting.append(turn)
        self.held += 1
        try:
            # Not `wait_for`: from Python 3.12 on it can run out in the moment in which the turn
            # comes, and the place would be lost.
            await asyncio.wait({turn}, timeout=HELD_SECONDS)
            return turn.done()
        finally:
            self.held -= 1
            turn.cancel()

    def _is_slow(self, host: _Host) -> bool:
        """Whether one more delivery would wait for too long."""
        wait_seconds = (len(host.waiting) + 1) * host.took_seconds / self._places(host)
        is_stuck = time.monotonic() - host.moved_at > HELD_SECONDS
        return bool(host.silent) or is_stuck or wait_seconds > HELD_SECONDS

    def _places(self, host: _Host) -> int:
        return max(LEAST, self._most >> min(30, host.silent))

    def _pause(self, host: _Host) -> float:
        """Those that are set aside come back one after the other."""
        now = time.monotonic()
        turn_at = max(now, host.turn_at) + host.took_seconds / self._places(host)
        host.turn_at = min(turn_at, now + LONGEST_PAUSE_SECONDS)
        return max(1.0, host.turn_at - now)
