"""Passes changes of executions on to the requests that wait for them or stream them.

The scripts publish every change on a channel of the execution, which costs almost nothing if nobody
has subscribed. A web process has one subscription for all its requests. It is one connection, with
a thread that reads and a thread that subscribes; under gevent both are greenlets. No request calls
the store here.

A message can get lost with its connection. So a watch says `must_read` once its subscription has
begun, and each time it has begun again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.process.aside import short_lock

CHANNEL = b"exec:changed:"
"""The channel is this and the execution's id; see `tell` in `scripts/events.lua`."""

REREAD_SECONDS = 15.0
"""The longest wait before a watch says `must_read`, whatever has happened to its messages."""

MOST_BYTES = 64 * 1024
"""A watch keeps so many bytes of changes that nobody has taken. Beyond it, it drops them and says
`must_read` instead: the store has them, too.
"""

_PING_SECONDS = 5.0
_TRY_AGAIN_SECONDS = 0.5


class Change(NamedTuple):
    """The events that one call of a script has added."""

    first: int  # the number of the first one
    final: bool  # is the last one final?
    entries: bytes  # a JSON array with one entry for each event, as `app.store.events` reads it


class Watch:
    """Follows one execution for one request."""

    __slots__ = ("_changes", "_held", "_read_wanted", "_woken", "final_only", "must_read")

    def __init__(self, *, final_only: bool):
        self.final_only = final_only
        self.must_read = False
        self._read_wanted = False
        self._changes = deque[Change]()
        self._held = 0  # bytes
        self._woken = threading.Event()

    def wait(self, seconds: float) -> list[Change]:
        """Returns what came since the last call, oldest first, as soon as there is something.

        Returns nothing after `seconds`, after a call of `wake`, and if the caller must read the
        store now, since changes may have been missed. `must_read` is then true until the next call.
        Changes that a read has shown already may still come; their numbers tell.
        """
        woken = self._woken.wait(max(0.0, min(seconds, REREAD_SECONDS)))
        self._woken.clear()
        self.must_read, self._read_wanted = self._read_wanted, False
        self.must_read |= not woken and seconds > REREAD_SECONDS
        found = []
        while self._changes:
            found.append(self._changes.popleft())
        self._held = 0
        return found

    def wake(self) -> None:
        """Ends the present or next `wait`."""
        self._woken.set()

    def read_now(self) -> None:
        self._read_wanted = True
        self._woken.set()

    def put(self, change: Change) -> None:
        if self.final_only and not change.final:
            return
        self._held += len(change.entries)
        if self._held > MOST_BYTES and self._changes:
            self._changes.clear()
            self._held = 0
            self.read_now()
            return
        self._changes.append(change)
        self._woken.set()


class _Channel:
    """The watches of one execution."""

    __slots__ = ("subscribed", "watches")

    def __init__(self) -> None:
        self.watches = set[Watch]()
        self.subscribed = False


class Changes:
    """The watches of one process. Safe to use from thousands of threads or greenlets.

    The first watch opens the connection.
    """

    def __init__(self, pool: redis.ConnectionPool):
        self._pool = pool
        self._lock = short_lock()  # guards what follows
        self._channels: dict[bytes, _Channel] = {}
        self._differing = set[bytes]()  # may have to be subscribed, or unsubscribed
        self._sent = set[bytes]()  # those that the present connection has subscribed to
        self._connection: Any = None
        self._started = False
        self._to_send = threading.Event()
        self._sending = threading.Lock()  # held while bytes are sent, or the connection closed

    @contextlib.contextmanager
    def watching(self, execution_id: str, *, final_only: bool = False) -> Iterator[Watch]:
        """Yields a watch, which says `must_read` once no later change can be missed.

        With `final_only` it is not woken by changes after which the execution goes on.
        """
        name, watch = CHANNEL + execution_id.encode(), Watch(final_only=final_only)
        self._add(name, watch)
        try:
            yield watch
        finally:
            self._remove(name, watch)

    def _add(self, name: bytes, watch: Watch) -> None:
        with self._lock:
            channel = self._channels.get(name)
            if channel is None:
                channel = self._channels[name] = _Channel()
                self._differing.add(name)
                self._to_send.set()
            channel.watches.add(watch)
            if channel.subscribed:
                watch.read_now()
            start, self._started = not self._started, True
        if start:
            for work in (self._listen, self._subscribe):
                threading.Thread(target=work, name="changes", daemon=True).start()

    def _remove(self, name: bytes, watch: Watch) -> None:
        with self._lock:
            channel = self._channels[name]
            channel.watches.remove(watch)
            if not channel.watches:
                del self._channels[name]
                self._differing.add(name)
                self._to_send.set()

    def _subscribe(self) -> None:
        """Subscribes and unsubscribes, in one command for all that came meanwhile."""
        while True:
            self._to_send.wait()
            self._to_send.clear()
            with self._lock:
                connection, changed = self._connection, self._differing
                if connection is None:
                    continue  # `_connect` will wake this thread
                self._differing = set()
                wanted = {name for name in changed if name in self._channels}
                new, old = wanted - self._sent, (changed - wanted) & self._sent
                self._sent = (self._sent | new) - old
            # After an error, `_listen` connects again and all are subscribed again.
            with self._sending, contextlib.suppress(Exception):
                if connection is self._connection:
                    for command, names in ((b"SUBSCRIBE", new), (b"UNSUBSCRIBE", old)):
                        if names:
                            connection.send_command(command, *names, check_health=False)

    def _listen(self) -> None:
        """Reads as long as the process lives, and connects again after an error."""
        while True:
            # Any error, besides those of the store: this thread must go on.
            with contextlib.suppress(Exception):
                connection = self._connect()
                while True:
                    self._hear(self._next(connection))
            self._disconnect()
            time.sleep(_TRY_AGAIN_SECONDS)

    def _connect(self) -> Any:
        # In RESP3, redis-py would write every message to its log as text.
        options = {**self._pool.connection_kwargs, "protocol": 2}
        connection = self._pool.connection_class(**options)
        connection.retry = Retry(NoBackoff(), 0)
        connection.connect()
        with self._lock:
            self._connection = connection
            self._sent.clear()
            self._differing = set(self._channels)
            self._to_send.set()
        return connection

    def _disconnect(self) -> None:
        with self._sending, self._lock:
            connection, self._connection = self._connection, None
            for channel in self._channels.values():
                channel.subscribed = False
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.disconnect()

    def _next(self, connection: Any) -> list[Any]:
        """The next message. Asks a silent store for an answer, and raises if it gives none."""
        try:
            return _read(connection)
        except redis.TimeoutError:
            with self._sending:
                connection.send_command(b"PING", check_health=False)
            return _read(connection)

    def _hear(self, message: list[Any]) -> None:
        kind, name, *rest = message
        with self._lock:
            channel = self._channels.get(name)
            watches = list(channel.watches) if channel else []
            if channel and kind == b"subscribe":
                channel.subscribed = True
        if kind == b"subscribe":
            for watch in watches:
                watch.read_now()
        elif kind == b"message" and watches:
            change = _change(rest[0])
            for watch in watches:
                watch.put(change) if change else watch.read_now()


def _change(payload: bytes) -> Change | None:
    """What `tell` in `scripts/events.lua` has published; None if it was something else."""
    first, _, rest = payload.partition(b":")
    final, _, entries = rest.partition(b":")
    if first.isdigit() and len(first) < 16 and final in (b"0", b"1"):
        return Change(int(first), final == b"1", entries)
    return None


def _read(connection: Any) -> list[Any]:
    message: list[Any] = connection.read_response(
        disable_decoding=True, timeout=_PING_SECONDS, disconnect_on_error=False
    )
    return message
