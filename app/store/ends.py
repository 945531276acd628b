"""Wakes those who wait for an execution's end: one subscription in each process, for all of them.

The scripts publish every end on a channel of that execution, which costs next to nothing while
nobody listens. A message may be lost with its connection, so whoever waits looks now and then all
the same.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import redis

CHANNEL = "exec:ended:"
"""Before the execution's id; see `end_as` in `scripts/prelude.lua`."""

LOOK_SECONDS = 2.5
"""How long a wait lasts at most before its caller looks for itself. A connection that broke is
noticed earlier.
"""

_READ_SECONDS = 5.0
_TRY_AGAIN_SECONDS = 0.5

Wait = Callable[[float], None]


class Ends:
    """Safe to use from many threads or greenlets, thousands of which may wait. Nothing is opened
    before the first.
    """

    def __init__(self, client: redis.Redis):
        self._client = client
        self._changing = threading.Lock()  # who waits, and with it what is subscribed
        self._lock = threading.Lock()  # who waits
        self._waiting: dict[str, set[threading.Event]] = defaultdict(set)
        self._subscription: Any = None

    @contextlib.contextmanager
    def watching(self, execution_id: str) -> Iterator[Wait]:
        """Gives a function that waits so many seconds at most. It returns early when the caller
        should look: as soon as nothing can be missed any more, and at the end.
        """
        woken, channel = threading.Event(), CHANNEL + execution_id
        with self._changing:
            with self._lock:
                first = not self._waiting[channel]
                self._waiting[channel].add(woken)
            if first:
                self._tell("subscribe", channel)
            else:
                woken.set()

        def wait(seconds: float) -> None:
            woken.wait(max(0.0, min(seconds, LOOK_SECONDS)))
            woken.clear()

        try:
            yield wait
        finally:
            with self._changing:
                with self._lock:
                    self._waiting[channel].discard(woken)
                    last = not self._waiting[channel]
                    if last:
                        del self._waiting[channel]
                if last:
                    self._tell("unsubscribe", channel)

    def _tell(self, what: str, channel: str) -> None:
        """Where the store is away, those who wait look for themselves."""
        with contextlib.suppress(redis.RedisError, OSError):
            getattr(self._listening(), what)(channel)

    def _listening(self) -> Any:
        with self._lock:
            if self._subscription is None:
                self._subscription = self._client.pubsub()  # type: ignore[no-untyped-call]  # redis's
                threading.Thread(target=self._listen, name="ends", daemon=True).start()
            return self._subscription

    def _listen(self) -> None:
        """For as long as the process lives; redis-py subscribes again after a broken connection."""
        while True:
            try:
                message = self._subscription.get_message(timeout=_READ_SECONDS)
            except (redis.RedisError, OSError):
                time.sleep(_TRY_AGAIN_SECONDS)
                continue
            if message and message["type"] in ("subscribe", "message"):
                self._wake(message["channel"].decode())

    def _wake(self, channel: str) -> None:
        with self._lock:
            waiting = list(self._waiting.get(channel, ()))
        for woken in waiting:
            woken.set()
        if not waiting:  # subscribed again with a new connection, just as the last of them left
            with self._changing:
                if channel not in self._waiting:
                    self._tell("unsubscribe", channel)
