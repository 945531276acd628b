"""Wakes requests that wait for the end of an execution, through one subscription for each process.

A cancel of a running execution waits here for the end. The scripts publish every end on a channel
of the execution, which costs almost nothing if nobody has subscribed. A message can get lost with
its connection, so a waiting request also reads the status at intervals.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import redis

CHANNEL = "exec:changed:"
"""The channel is this and the execution's id; see `tell_all` in `scripts/events.lua`."""

REREAD_SECONDS = 2.5
"""The longest wait before a waiting request reads the status again. (A broken connection ends the
wait earlier.)
"""

_READ_SECONDS = 5.0
_TRY_AGAIN_SECONDS = 0.5

Wait = Callable[[float], None]
"""Waits for at most this many seconds."""


class Ends:
    """The waiting requests of one process. Safe to use from thousands of threads or greenlets.

    The first request that waits opens the connection.
    """

    def __init__(self, client: redis.Redis):
        self._client = client
        # `_lock` guards `_waiting`. `_changing` is held longer: over a change of `_waiting` and the
        # call that subscribes or unsubscribes, so that the two never differ.
        self._changing = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[str, set[threading.Event]] = defaultdict(set)
        self._subscription: Any = None

    @contextlib.contextmanager
    def watching(self, execution_id: str) -> Iterator[Wait]:
        """Yields a function that waits. It returns early if the caller should read the status now:
        once when the subscription has begun, so that no end is missed, and at the end.
        """
        woken, channel = threading.Event(), CHANNEL + execution_id
        with self._changing:
            with self._lock:
                first = not self._waiting[channel]
                self._waiting[channel].add(woken)
            if first:
                self._tell("subscribe", channel)
            else:
                woken.set()  # subscribed already, so the first wait returns at once

        def wait(seconds: float) -> None:
            woken.wait(max(0.0, min(seconds, REREAD_SECONDS)))
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
        # If the store is away, those who wait read the status themselves.
        with contextlib.suppress(redis.RedisError, OSError):
            getattr(self._listening(), what)(channel)

    def _listening(self) -> Any:
        with self._lock:
            if self._subscription is None:
                self._subscription = self._client.pubsub()  # type: ignore[no-untyped-call]  # redis's
                threading.Thread(target=self._listen, name="ends", daemon=True).start()
            return self._subscription

    def _listen(self) -> None:
        # Runs as long as the process. redis-py subscribes again after a broken connection.
        while True:
            try:
                message = self._subscription.get_message(timeout=_READ_SECONDS)
            except Exception:
                # Besides the errors of the store: a failed call in another thread closes the
                # connection, and redis-py then fails in any way here. This thread must go on.
                time.sleep(_TRY_AGAIN_SECONDS)
                continue
            if message and message["type"] in ("subscribe", "message"):
                self._wake(message["channel"].decode())

    def _wake(self, channel: str) -> None:
        with self._lock:
            waiting = list(self._waiting.get(channel, ()))
        for woken in waiting:
            woken.set()
        if not waiting:  # a new connection subscribed again just after the last request had left
            with self._changing:
                if channel not in self._waiting:
                    self._tell("unsubscribe", channel)
