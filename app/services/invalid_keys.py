"""Throttles clients that send invalid API keys: counts failures per client address and minute.

`app.api.access` asks it before it looks up an unknown key in the store. Each web process counts for
itself, in memory: a count in the store would cost the round trip that the throttle has to save.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict

# Enough for a deployment that still sends an old key, and far too few to guess a key of 256 bits.
INVALID_KEYS_PER_MINUTE = 100
WINDOW_SECONDS = 60.0

# A few MiB of memory at most. Without a bound, a client with many addresses could use it all up.
# The `limits` package's counters in memory have no such bound, and start a thread to expire them.
MAX_CLIENTS = 10_000


class InvalidKeyThrottle:
    """Safe to use from many threads.

    Above `MAX_CLIENTS` clients, it forgets the one whose minute began first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # address -> (monotonic end of its minute, failures in it), in the order of these ends
        self._clients: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str) -> None:
        """Counts one invalid key. A client's minute begins with its first failure."""
        with self._lock:
            now = time.monotonic()
            ends_at, count = self._clients.get(address, (0.0, 0))
            if now < ends_at:
                self._clients[address] = (ends_at, count + 1)
                return
            # Removed and added again, so that the dict stays ordered by the end of the minute.
            self._clients.pop(address, None)
            self._clients[address] = (now + WINDOW_SECONDS, 1)
            if len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)

    def wait_seconds(self, address: str) -> int:
        """Seconds until this client may try another key; 0 if it may try now."""
        # No lock: one `get` is atomic, and a count that is one behind lets in one more try at most.
        ends_at, count = self._clients.get(address, (0.0, 0))
        if count < INVALID_KEYS_PER_MINUTE:
            return 0
        return max(0, math.ceil(ends_at - time.monotonic()))
