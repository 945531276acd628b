"""Follows all executions of a tenant: every change of a status, at least once and in order.

`app.api.streams` sends what comes out of here, as it does with the log of one execution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

from app.domain.errors import StoreUnavailable
from app.services.streams import (
    PAUSE_SECONDS,
    TRY_SECONDS,
    Crowded,
    Gap,
    Pause,
    Position,
    Slots,
)
from app.services.waiting import Caller
from app.store.feed import FeedEntry, Feeds, Follower
from app.store.feed import Position as FeedPosition

Item = FeedEntry | Gap | Position | Pause | Crowded


@dataclass(frozen=True, slots=True)
class Filter:
    """Which executions to follow; None means all."""

    type: str | None = None
    target_id: str | None = None
    tag: str | None = None

    def matches(self, entry: FeedEntry) -> bool:
        return (
            self.type in (None, entry.target_type)
            and self.target_id in (None, entry.target_id)
            and (self.tag is None or self.tag in entry.tags)
        )


class FeedService:
    """Safe to use from thousands of greenlets."""

    def __init__(self, feeds: Feeds, slots: Slots):
        self._feeds, self._slots = feeds, slots

    def follow(self, tenant: str, after: FeedPosition | None, chosen: Filter) -> FeedStream:
        """A stream of all changes after a position; without one, of those from now on.

        Raises `StoreUnavailable`.
        """
        latest = self._feeds.latest(tenant)
        return FeedStream(self._feeds, self._slots, tenant, after, latest, chosen)


class FeedStream:
    """One stream. `first` is what to send at once."""

    def __init__(
        self,
        feeds: Feeds,
        slots: Slots,
        tenant: str,
        after: FeedPosition | None,
        latest: FeedPosition,
        chosen: Filter,
    ):
        self._feeds, self._slots = feeds, slots
        self._tenant, self._filter, self._latest = tenant, chosen, latest
        is_lost = after is not None and after > latest  # by the store, or it was never a real one
        self._position = latest if after is None or is_lost else after
        self._shown, self._has_more = self._position, False
        # A client that never gets an event must not lose what comes while it connects again.
        self.first: list[Item] = [
            *([Gap(str(after), None)] if is_lost else []),
            Position(str(self._position)),
        ]

    def batches(self, caller: Caller, is_allowed: Callable[[], bool]) -> Iterator[list[Item]]:
        """What to send, as it comes. Ends when the client has gone, when the process stops, and
        when `is_allowed` says no.
        """
        yield self.first
        with self._feeds.following(self._tenant, self._position, self._latest) as follower:
            caller.wake_at_end(follower.wake)
            if self._slots.take():
                try:
                    yield from self._live(follower, caller, is_allowed)
                finally:
                    self._slots.give_back()
            else:
                yield from self._rest(follower)

    def _live(
        self, follower: Follower, caller: Caller, is_allowed: Callable[[], bool]
    ) -> Iterator[list[Item]]:
        is_behind, pause_at = False, monotonic() + PAUSE_SECONDS
        while not (caller.stopping or caller.gone()):
            left_seconds = pause_at - monotonic()
            follower.wait(min(left_seconds, TRY_SECONDS) if is_behind else left_seconds)
            is_pause = monotonic() >= pause_at
            try:
                items, is_behind = self._read(follower, in_store=is_pause), False
            except StoreUnavailable:
                items, is_behind = [], True
            if is_pause:
                if not is_allowed():
                    return
                items += self._pause()
                pause_at = monotonic() + PAUSE_SECONDS
            if items:
                yield items

    def _rest(self, follower: Follower) -> Iterator[list[Item]]:
        """All that there is now. The client shall come back later, also if the store is away."""
        with contextlib.suppress(StoreUnavailable):
            self._has_more = True
            while self._has_more:
                yield self._read(follower)
        yield [Crowded()]

    def _read(self, follower: Follower, *, in_store: bool = False) -> list[Item]:
        before = self._position
        page = follower.read(in_store=in_store)
        self._position, self._has_more = page.position, not page.is_complete
        items: list[Item] = []
        if page.is_gap:
            next_one = str(page.entries[0].position) if page.entries else None
            items.append(Gap(str(before), next_one))
        chosen = [entry for entry in page.entries if self._filter.matches(entry)]
        if chosen:
            self._shown = chosen[-1].position
        return [*items, *chosen]

    def _pause(self) -> list[Item]:
        position = [Position(str(self._position))] if self._position != self._shown else []
        self._shown = self._position
        return [*position, Pause()]
