"""How many wrong keys came from a peer within a minute, so that whoever tries out keys costs next to nothing.

Each web process counts for itself, in memory: a count in the store would cost what it is to save.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict

WRONG_KEYS_A_MINUTE = 100
WINDOW_SECONDS = 60.0
MAX_PEERS = 10_000


class WrongKeys:
    """Safe to use from many threads. Past `MAX_PEERS` the peer whose minute began first is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: OrderedDict[str, tuple[float, int]] = (
            OrderedDict()
        )  # peer -> end of its minute, how many

    def count(self, peer: str) -> None:
        with self._lock:
            now = time.monotonic()
            ends_at, count = self._peers.get(peer, (0.0, 0))
            if now < ends_at:
                self._peers[peer] = (ends_at, count + 1)
                return
            self._peers.pop(peer, None)
            self._peers[peer] = (now + WINDOW_SECONDS, 1)
            if len(self._peers) > MAX_PEERS:
                self._peers.popitem(last=False)

    def wait_seconds(self, peer: str) -> int:
        """How long until this peer may try another key; 0: now."""
        ends_at, count = self._peers.get(peer, (0.0, 0))
        return max(0, math.ceil(ends_at - time.monotonic())) if count >= WRONG_KEYS_A_MINUTE else 0
