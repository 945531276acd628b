"""Follows the feeds of tenants: every change of a status, in order.

The scripts add the changes to a stream in the store for each tenant, which keeps the last
`FEED_LENGTH` (see `feed` in `scripts/events.lua`). A web process reads the streams of all tenants
that somebody follows with one connection and one call, and keeps the latest changes for all who
follow them. Who is further behind reads the store himself.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import redis
import structlog

from app.domain.errors import StoreUnavailable
from app.domain.events import STATUS_TYPES
from app.process.aside import short_lock
from app.store import connection
from app.store.steps import to_datetime

FEED = "exec:changes:"
"""The key of a feed is this and the tenant."""

FEED_LENGTH = 10_000
"""At least so many changes are kept. While a feed is shorter, it has lost none."""

KEPT = 1000
"""How many changes a process keeps of each feed that is followed."""

READ_COUNT = 500
"""How many changes one call reads."""

PAUSE_SECONDS = 0.05
"""The wait between two calls that found something: there are at most 20 calls a second."""

BLOCK_SECONDS = 0.25
"""How long a call waits for a change. A tenant that nobody followed before is heard after this."""

TRY_AGAIN_SECONDS = 0.5

MOST_CALLS = 8
"""How many calls are made at the same time, since each needs a connection to the store. After a
restart of this process, all who follow a feed come back within two seconds.
"""

log = structlog.get_logger(__name__)


class Position(NamedTuple):
    """The place of a change in its feed: the id of an entry of a stream in the store."""

    milliseconds: int
    number: int

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Reads what `str` has written; None for anything else."""
        milliseconds, _, number = text.partition("-")
        parts = (milliseconds, number)
        if all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
            return cls(int(milliseconds), int(number))
        return None


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One change of the status of an execution. `number` is that of the event in its log."""

    position: Position
    at: datetime
    number: int
    execution_id: str
    type: str
    target_type: str
    target_id: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedPage:
    """What comes after a position. `is_gap`: some of it is no longer stored."""

    entries: tuple[FeedEntry, ...]
    position: Position
    is_gap: bool
    is_complete: bool


class _Channel:
    """The latest changes of one tenant, and those who follow them."""

    def __init__(self, position: Position):
        self.followers = set[Follower]()
        self.begin_again(position)

    def begin_again(self, position: Position) -> None:
        """Keeps nothing before a position. Who follows has to read the store, and sees the gap."""
        self.position = self.begins_after = position
        self.latest = deque[FeedEntry]()
        self._wake_all()

    def add(self, entries: Iterable[FeedEntry], position: Position) -> None:
        self.latest.extend(entries)
        self.position = position
        while len(self.latest) > KEPT:
            self.begins_after = self.latest.popleft().position
        self._wake_all()

    def _wake_all(self) -> None:
        for follower in self.followers:
            follower.wake()

    def after(self, position: Position) -> list[FeedEntry] | None:
        """The kept changes after a position; None if some of them are not kept."""
        if position < self.begins_after:
            return None
        found = []
        for entry in reversed(self.latest):
            if entry.position <= position:
                break
            found.append(entry)
        return found[::-1]


class Follower:
    """Follows the feed of one tenant for one client, from `position` on."""

    def __init__(self, feeds: Feeds, tenant: str, channel: _Channel, position: Position):
        self._feeds, self._tenant, self._channel = feeds, tenant, channel
        self._woken = threading.Event()
        self._woken.set()  # there may be something to read already
        self.position = position

    def wait(self, seconds: float) -> None:
        """Returns when there may be something new, after `wake`, or after these seconds."""
        self._woken.wait(max(0.0, seconds))
        self._woken.clear()

    def wake(self) -> None:
        """Ends the present or next `wait`."""
        self._woken.set()

    def read(self, *, in_store: bool = False) -> FeedPage:
        """What comes after the position, which moves on. Raises `StoreUnavailable`.

        `in_store` asks the store in any case, which shows what this process may have missed.
        """
        kept = None if in_store else self._channel.after(self.position)
        if kept is None:
            page = self._feeds.read(self._tenant, self.position)
        else:
            position = max(self.position, self._channel.position)
            page = FeedPage(tuple(kept), position, is_gap=False, is_complete=True)
        self.position = page.position
        if not page.is_complete:
            self._woken.set()
        return page


class Feeds:
    """The feeds that somebody follows in this process. Safe to use from many greenlets."""

    def __init__(self, client: redis.Redis):
        self._client = client
        self._calling = connection.Breaker().calling
        self._places = threading.BoundedSemaphore(MOST_CALLS)
        self._lock = short_lock()
        self._channels: dict[str, _Channel] = {}
        self._wanted = threading.Event()
        self._is_started = False

    @contextlib.contextmanager
    def following(self, tenant: str, after: Position, latest: Position) -> Iterator[Follower]:
        """Yields a follower of all changes after a position. `latest` is that of the last change,
        as it was a moment ago. It does not call the store.
        """
        with self._lock:
            channel = self._channels.setdefault(tenant, _Channel(latest))
            follower = Follower(self, tenant, channel, after)
            channel.followers.add(follower)
            self._wanted.set()
            start, self._is_started = not self._is_started, True
        if start:
            threading.Thread(target=self._listen, name="feeds", daemon=True).start()
        try:
            yield follower
        finally:
            with self._lock:
                channel.followers.discard(follower)
                if not channel.followers:
                    del self._channels[tenant]

    def read(self, tenant: str, after: Position) -> FeedPage:
        """Reads the changes after a position from the store. Raises `StoreUnavailable`."""
        key = FEED + tenant
        with self._places, self._calling(), self._client.pipeline(transaction=True) as pipe:
            # With the entry at the position itself: if it is there, none behind it is missing.
            pipe.xrange(key, min=str(after), count=READ_COUNT + 1)
            pipe.xrevrange(key, count=1)
            pipe.xlen(key)
            rows, last, length = _without_wrong_types(pipe.execute(raise_on_error=False))
        end = _position(last[0][0]) if last else START
        if end < after:  # the store has lost its last changes, or all of them
            return FeedPage((), end, is_gap=True, is_complete=True)
        is_known = bool(rows) and _position(rows[0][0]) == after
        is_gap = length >= FEED_LENGTH if after == START else not is_known
        rows = rows[1:] if is_known else rows
        position = _position(rows[-1][0]) if rows else end
        return FeedPage(tuple(_entries(rows)), position, is_gap, is_complete=position >= end)

    def latest(self, tenant: str) -> Position:
        """The position of the last change. Raises `StoreUnavailable`."""
        channel = self._channels.get(tenant)
        known = channel.position if channel else START
        latest = self._read_latest(tenant)
        if channel and latest < known:  # the store has lost them
            with self._lock:
                channel.begin_again(latest)
        return latest

    def _read_latest(self, tenant: str) -> Position:
        with self._places, self._calling():
            try:
                last: Any = self._client.xrevrange(FEED + tenant, count=1)
            except redis.ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                last = None
        return _position(last[0][0]) if last else START

    def _listen(self) -> None:
        """Reads as long as the process lives, while somebody follows."""
        while True:
            self._wanted.wait()
            try:
                time.sleep(PAUSE_SECONDS if self._read_new() else 0)
            except Exception as error:  # whatever it is, this thread must go on
                if not isinstance(error, StoreUnavailable):
                    log.warning("feed_unreadable", exc_info=error)
                time.sleep(TRY_AGAIN_SECONDS)

    def _read_new(self) -> bool:
        """Passes new changes on. Waits for them for up to `BLOCK_SECONDS`."""
        with self._lock:
            followed = dict(self._channels)
            if not followed:
                self._wanted.clear()
                return False
        positions: dict[Any, Any] = {
            FEED + tenant: str(channel.position) for tenant, channel in followed.items()
        }
        for key, rows in self._new(positions).items():
            tenant = key.removeprefix(FEED)
            if len(rows) < READ_COUNT:
                with self._lock:
                    followed[tenant].add(_entries(rows), _position(rows[-1][0]))
            else:
                self._catch_up(tenant, followed[tenant])
            positions[key] = ""
        return "" in positions.values()

    def _catch_up(self, tenant: str, channel: _Channel) -> None:
        """Reads on for a channel that is so far behind that the store may have dropped changes.

        The call that waits for new changes would leave those out without a word.
        """
        page = self.read(tenant, channel.position)
        with self._lock:
            if page.is_gap:
                channel.begin_again(page.position)
            else:
                channel.add(page.entries, page.position)

    def _new(self, positions: dict[Any, Any]) -> dict[str, list[Any]]:
        """The new entries by key."""
        with connection.translated():
            try:
                found: Any = self._client.xread(
                    positions, count=READ_COUNT, block=int(BLOCK_SECONDS * 1000)
                )
            except redis.ResponseError as error:
                if "WRONGTYPE" not in str(error) or len(positions) == 1:
                    raise
                # One tenant's key is no stream. It must not keep the others from theirs.
                return self._one_by_one(positions)
        return {key.decode(): rows for key, rows in found}

    def _one_by_one(self, positions: dict[Any, Any]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for key, position in positions.items():
            with contextlib.suppress(redis.ResponseError):
                rows: Any = self._client.xread({key: position}, count=READ_COUNT)
                found |= {key: rows[0][1]} if rows else {}
        time.sleep(PAUSE_SECONDS)
        return found


def _without_wrong_types(answers: list[Any]) -> list[Any]:
    """The answers, and those of an empty feed if the key is no stream."""
    for answer in answers:
        if isinstance(answer, redis.ResponseError) and "WRONGTYPE" in str(answer):
            return [[], [], 0]
        if isinstance(answer, Exception):
            raise answer
    return answers


def _position(id: bytes) -> Position:
    milliseconds, _, number = id.partition(b"-")
    return Position(int(milliseconds), int(number))


def _entries(rows: list[Any]) -> Iterator[FeedEntry]:
    """The entries that can be read. What other programs wrote between them is left out."""
    for id, fields in rows:
        position = _position(id)
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
            number, execution_id, type, target_type, target_id, tags = json.loads(fields[b"e"])
            if type in STATUS_TYPES and isinstance(number, int):
                yield FeedEntry(
                    position,
                    to_datetime(position.milliseconds * 1000),
                    number,
                    str(execution_id),
                    type,
                    str(target_type),
                    str(target_id),
                    tuple(map(str, tags or ())),
                )
