"""What a process keeps of the feeds that are followed, when it comes behind the store."""

from __future__ import annotations

import pytest
import redis

from app.store.feed import FEED, FEED_LENGTH, READ_COUNT, START, Feeds, Position
from tests.support.pace import within

TENANT = "default"


def changes(client: redis.Redis, count: int) -> list[Position]:
    """Adds so many changes to the feed. Returns their positions."""
    with client.pipeline(transaction=False) as pipe:
        for number in range(count):
            change = f'[1,"exec_{number:020}","created","agent","echo",null]'
            pipe.xadd(FEED + TENANT, {"e": change}, maxlen=FEED_LENGTH, approximate=True)
        return [place for place in map(Position.parse, map(bytes.decode, pipe.execute())) if place]


@pytest.mark.parametrize("was_empty", [True, False])
def test_a_process_that_was_stopped_for_long_reports_what_the_store_has_dropped(
    redis_client: redis.Redis, was_empty: bool
) -> None:
    seen = START if was_empty else changes(redis_client, 1)[0]
    after = changes(redis_client, FEED_LENGTH + 2 * READ_COUNT)
    feeds = Feeds(redis_client)
    # As if this process had been stopped since `seen` was the latest change.
    with feeds.following(TENANT, seen, seen) as follower:
        page = follower.read()
        while not page.entries and not page.is_gap:
            follower.wait(within(10))
            page = follower.read()
        assert page.is_gap
        heard = list(page.entries)
        while heard[-1].position < after[-1]:
            follower.wait(within(10))
            page = follower.read()
            assert not page.is_gap
            heard += page.entries
    assert [entry.position for entry in heard] == after[-len(heard) :]
    assert FEED_LENGTH <= len(heard) < len(after)


def test_a_process_that_is_only_late_misses_nothing(redis_client: redis.Redis) -> None:
    seen, *after = changes(redis_client, FEED_LENGTH - READ_COUNT)
    with Feeds(redis_client).following(TENANT, seen, seen) as follower:
        heard: list[Position] = []
        while not heard or heard[-1] < after[-1]:
            follower.wait(within(10))
            page = follower.read()
            assert not page.is_gap
            heard += [entry.position for entry in page.entries]
    assert heard == after
