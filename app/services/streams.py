"""Follows the log of an execution: all its events after a number, in order and once each.

`app.api.streams` sends what comes out of here. It knows nothing of HTTP.

Messages of the store bring new events with what they say, so that most of them cost no call. They
may be missed, repeated or overlap with what was read. So the numbers decide: what is known already
is left out, and where a number is missing, the log is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic

from app.domain.errors import NotFound, StoreUnavailable, TooManyLarge
from app.domain.events import Event
from app.services import serializers
from app.services.executions import ExecutionService
from app.services.waiting import Caller
from app.store.changes import Change
from app.store.events import read_entries

PAUSE_SECONDS = 15.0
"""A client hears something at least this often, and its key is looked at again."""

TRY_SECONDS = 1.0
"""The wait between tries while the store cannot be read."""

CROWDED_SECONDS = 10.0
"""How long a stream without a place may go on to send what there is."""

READ_COUNT = 250
"""How many events one call reads."""

READ_FOR_A_PAGE = 10_000
"""How many events are looked at for one page of JSON: types may be rare in a long log."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The status of the execution, as JSON. The events after the number `after` follow it."""

    body: bytes
    after: int


@dataclass(frozen=True, slots=True)
class Gap:
    """What lies between these two is no longer stored. `before` is None if nothing follows yet."""

    after: int | str
    before: int | str | None


@dataclass(frozen=True, slots=True)
class Position:
    """All up to here was sent, or was not asked for."""

    id: int | str


@dataclass(frozen=True, slots=True)
class Pause:
    """There was nothing to send for a while."""


@dataclass(frozen=True, slots=True)
class Crowded:
    """The stream ends, since this process has as many as it may have. The client shall resume."""


Item = Snapshot | Event | Gap | Position | Pause | Crowded


@dataclass(frozen=True, slots=True)
class LogPage:
    """A part of a log. `next` is the number to continue after, None at the end of the log."""

    events: tuple[Event, ...]
    first: int
    version: int
    ended: bool
    next: int | None


class Slots:
    """Counts the open streams of this process, and says whether there may be one more."""

    def __init__(self, limit: int):
        self._limit, self.open = limit, 0

    def take(self) -> bool:
        if self.open >= self._limit:
            return False
        self.open += 1
        return True

    def give_back(self) -> None:
        self.open -= 1


class LogService:
    """Reads and follows the logs of executions. Safe to use from thousands of greenlets."""

    def __init__(self, executions: ExecutionService, slots: Slots):
        self._executions = executions
        self._slots = slots

    def page(
        self,
        execution_id: str,
        tenant: str,
        after: int,
        limit: int,
        types: frozenset[str] | None,
    ) -> LogPage:
        """Up to `limit` events after a number; fewer if many had to be looked at for them.

        Raises `NotFound`.
        """
        found: list[Event] = []
        first, position, looked_at = 0, after, 0
        count = READ_COUNT if types else min(limit, READ_COUNT)
        while True:
            page = self._executions.store.events(execution_id, tenant, position, count)
            if page is None:
                raise NotFound.of_execution(execution_id)
            first = first or page.first
            for event in page.events:
                if len(found) < limit:
                    position = event.number
                    found += [event] if types is None or event.type in types else []
            is_last = position >= page.version or not page.events
            are_large = len(page.events) < count  # the store reads up to 1 MiB in one call
            looked_at += len(page.events)
            if is_last or are_large or len(found) >= limit or looked_at >= READ_FOR_A_PAGE:
                following = None if is_last else position
                return LogPage(tuple(found), first, page.version, page.ended, following)

    def follow(
        self, execution_id: str, tenant: str, after: int | None, types: frozenset[str] | None
    ) -> LogStream:
        """A stream of all events after a number; without one, it begins with a snapshot.

        Raises `NotFound`, and what `ExecutionService.get` raises.
        """
        return LogStream(self._executions, self._slots, execution_id, tenant, after, types)


class LogStream:
    """One stream. `first` is what to send at once; it is read when the stream is made.

    `is_over` is true when the final event is in what was sent, or was known to the client before.
    """

    def __init__(
        self,
        executions: ExecutionService,
        slots: Slots,
        execution_id: str,
        tenant: str,
        after: int | None,
        types: frozenset[str] | None,
    ):
        self._executions = executions
        self._store = executions.store
        self._slots = slots
        self._id, self._tenant, self._types = execution_id, tenant, types
        # A flow reports what nobody may want to hear only after this was asked for.
        self._must_ask = types is None or "output.delta" in types
        self._position = self._shown = after or 0
        self._is_behind = False  # the store may have events that were not sent
        self.is_over = False
        self.first: list[Item] = self._begin() if after is None else self._read()

    def batches(self, caller: Caller, is_allowed: Callable[[], bool]) -> Iterator[list[Item]]:
        """What to send, as it comes. Ends after the final event, when the client has gone, when the
        process stops, and when `is_allowed` says no.
        """
        # Before anything is sent: a client may take long to read what there is.
        is_live = self._slots.take()
        until = math.inf if is_live else monotonic() + CROWDED_SECONDS
        try:
            yield self.first
            if self._is_behind:
                yield from self._catch_up(caller, until)
            if is_live and not self.is_over:
                yield from self._live(caller, is_allowed)
        finally:
            if is_live:
                self._slots.give_back()
        if not (is_live or self.is_over):
            yield [Crowded()]

    def _live(self, caller: Caller, is_allowed: Callable[[], bool]) -> Iterator[list[Item]]:
        pause_at = monotonic() + PAUSE_SECONDS
        with self._store.watching(self._id) as watch:
            caller.wake_at_end(watch.wake)
            while not (self.is_over or caller.stopping or caller.gone()):
                left_seconds = pause_at - monotonic()
                changes = watch.wait(
                    min(left_seconds, TRY_SECONDS) if self._is_behind else left_seconds
                )
                if items := self._taken(changes):
                    yield items
                is_pause = monotonic() >= pause_at
                if self._is_behind or watch.must_read or is_pause:
                    yield from self._catch_up(caller)
                if is_pause:
                    if not is_allowed():
                        return
                    yield self._pause()
                    pause_at = monotonic() + PAUSE_SECONDS

    def _catch_up(self, caller: Caller, until: float = math.inf) -> Iterator[list[Item]]:
        """Reads the log up to its end. While the store is away, the stream stays behind."""
        self._is_behind = True
        try:
            if self._must_ask:
                self._store.listen(self._id, self._tenant)
                self._must_ask = False
            while self._is_behind and not caller.stopping and monotonic() < until:
                if items := self._read():
                    yield items
        except (StoreUnavailable, TooManyLarge):
            return
        except NotFound:
            self.is_over = True  # it was removed

    def _begin(self) -> list[Item]:
        """A snapshot. If the execution has ended, its final event follows."""
        with ExitStack() as held:
            execution = self._executions.get(self._id, self._tenant, held=held)
            body = serializers.bounded(execution)
        ended = execution.status.ended
        self._position = self._shown = execution.version - ended
        snapshot = Snapshot(body, self._position)
        return [snapshot, *self._read()] if ended else [snapshot]

    def _read(self) -> list[Item]:
        """The next events of the log in the store."""
        page = self._store.events(self._id, self._tenant, self._position, READ_COUNT)
        if page is None:
            raise NotFound.of_execution(self._id)
        if page.version < self._position:
            # The store has lost what was sent, or the client's number was never a real one.
            return self._begin()
        items: list[Item] = []
        if page.first > self._position + 1:
            items.append(Gap(self._position, page.first))
            self._position = self._shown = page.first - 1
        for event in page.events:
            self._add(event, items)
        self._is_behind = bool(page.events) and self._position < page.version
        self.is_over |= page.ended and not self._is_behind
        return items

    def _taken(self, changes: list[Change]) -> list[Item]:
        """The new events of messages, up to the first one that is missing."""
        items: list[Item] = []
        for change in changes:
            try:
                events = read_entries(change.entries, change.first)
            except ValueError:
                events = []
            if not events or change.first > self._position + 1:
                self._is_behind = True
                break
            for event in events:
                if event.number > self._position:
                    self._add(event, items)
        return items

    def _add(self, event: Event, items: list[Item]) -> None:
        self._position = event.number
        self.is_over |= event.is_final
        if self._types is None or event.type in self._types:
            items.append(event)
            self._shown = event.number
        elif event.is_final:  # otherwise a client would connect again and again
            items.append(Position(event.number))

    def _pause(self) -> list[Item]:
        """A sign of life. It includes how far events were looked at, so that a client does not
        resume before those that it did not ask for.
        """
        position = [Position(self._position)] if self._position > self._shown else []
        self._shown = self._position
        return [*position, Pause()]
