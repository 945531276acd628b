"""`app.services.feed`: what a client hears while the store is away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from app.domain.errors import StoreUnavailable
from app.services.feed import Crowded, FeedService, Filter, Position
from app.services.streams import Slots
from app.services.waiting import Stranger
from app.store.feed import START


class Away:
    """Feeds, and their only follower, of a store that has just gone away."""

    def latest(self, tenant: str) -> Any:
        return START

    @contextlib.contextmanager
    def following(self, *_: Any) -> Iterator[Away]:
        yield self

    def wake(self) -> None:
        """Does nothing."""

    def read(self, **_: Any) -> Any:
        raise StoreUnavailable("It is away.")


def test_a_feed_beyond_the_limit_ends_in_order_though_the_store_is_away() -> None:
    feeds: Any = Away()
    stream = FeedService(feeds, Slots(0)).follow("default", None, Filter())
    assert list(stream.batches(Stranger(), lambda: True)) == [[Position("0-0")], [Crowded()]]
