"""When a webhook is tried again, and which receivers get how many places."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.delivery import Try
from app.domain.errors import StoreRefused, StoreUnavailable
from app.setting_checks import pauses_of
from app.settings import Settings
from app.store.delivery_queue import LEASE_SECONDS, Taken
from app.worker.outage import OutageLog
from app.worker.webhooks import receivers
from app.worker.webhooks.batches import Batches
from app.worker.webhooks.deliverer import STOP_SECONDS
from app.worker.webhooks.receivers import Receivers
from app.worker.webhooks.schedule import note_of
from app.worker.webhooks.sender import SECONDS

NOW = datetime.now(UTC)
PAUSES = pauses_of(Settings().webhook_pauses)
DAY = timedelta(days=1).total_seconds()


def taken(tries: int = 0) -> Taken:
    return Taken("e-1", "t", "e", "default", "http://a/", "completed", 3, NOW, tries, NOW)


def tried(code: int | None = 500, retry_after_seconds: float | None = None) -> Try:
    error = None if code and 200 <= code < 300 else "It failed."
    return Try(NOW, code, error, 0.1, "", retry_after_seconds)


def test_there_are_ten_tries_over_about_three_days_and_the_second_comes_after_5_seconds() -> None:
    notes = [note_of(taken(made), tried(), PAUSES) for made in range(10)]
    assert [note.how for note in notes] == ["again"] * 9 + ["failed"]
    assert 5 <= notes[0].delay_seconds <= 6
    assert 3 * DAY < sum(note.delay_seconds for note in notes) < 4 * DAY
    delays = [note.delay_seconds for note in notes[:9]]
    assert delays == sorted(delays)


def test_deliveries_that_failed_together_do_not_come_back_together() -> None:
    assert len({note_of(taken(3), tried(), PAUSES).delay_seconds for _ in range(20)}) > 10


@pytest.mark.parametrize("code", [None, 301, 308, 400, 401, 404, 408, 429, 500, 503])
def test_all_failures_but_410_are_tried_again(code: int | None) -> None:
    assert note_of(taken(), tried(code), PAUSES).how == "again"
    assert note_of(taken(), tried(410), PAUSES).how == "gone"
    assert note_of(taken(9), tried(410), PAUSES).how == "gone"


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_success_also_at_the_last_try(code: int) -> None:
    assert note_of(taken(9), tried(code), PAUSES).how == "delivered"


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [(60.0, 60, 60), (0.0, 5, 6), (-5.0, 5, 6), (7 * DAY, DAY, DAY), (None, 5, 6)],
)
def test_the_later_of_the_pause_and_retry_after_counts_up_to_a_day(
    asked: float | None, least: float, most: float
) -> None:
    assert least <= note_of(taken(), tried(429, asked), PAUSES).delay_seconds <= most


def test_a_lease_outlasts_every_try() -> None:
    assert SECONDS + receivers.HELD_SECONDS + STOP_SECONDS + 5 < LEASE_SECONDS


def test_a_host_gets_a_quarter_of_the_places_and_two_while_it_is_silent() -> None:
    async def enter() -> None:
        places = Receivers(40)
        assert [await places.enter("a") for _ in range(10)] == [0.0] * 10
        assert await places.enter("b") == 0.0
        for _ in range(10):
            places.leave("a", 15.0, answered=False)
        entered = [await places.enter("a") for _ in range(5)]
        assert entered[:2] == [0.0, 0.0]
        assert all(pause > 0 for pause in entered[2:])
        assert entered[2:] == sorted(entered[2:])  # they come back one after the other
        places.leave("a", 0.1, answered=True)
        assert [await places.enter("a") for _ in range(9)] == [0.0] * 9

    asyncio.run(enter())


def test_a_delivery_waits_here_for_a_place_of_a_lively_host_and_is_set_aside_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receivers, "HELD_SECONDS", 0.2)

    async def wait() -> None:
        places = Receivers(8)
        assert [await places.enter("a") for _ in range(2)] == [0.0, 0.0]
        third, fourth = (asyncio.ensure_future(places.enter("a")) for _ in range(2))
        await asyncio.sleep(0.01)
        assert places.held == 2
        places.leave("a", 0.01, answered=True)
        assert await third == 0.0
        assert await fourth > 0
        assert places.held == 0

    asyncio.run(wait())


def test_a_host_that_is_owed_more_than_it_soon_takes_has_the_rest_set_aside() -> None:
    async def enter() -> None:
        places = Receivers(8)
        assert [await places.enter("a") for _ in range(2)] == [0.0, 0.0]
        places.leave("a", 2.0, answered=True)  # so two places make one delivery a second
        assert await places.enter("a") == 0.0
        turns = [asyncio.ensure_future(places.enter("a")) for _ in range(10)]
        await asyncio.sleep(0.01)
        assert places.held == receivers.HELD_SECONDS
        assert sum(turn.done() for turn in turns) == 10 - places.held
        assert all(turn.result() > 0 for turn in turns if turn.done())
        for turn in turns:
            turn.cancel()

    asyncio.run(enter())


def test_many_that_are_set_aside_are_back_within_a_minute() -> None:
    async def enter() -> None:
        places = Receivers(8)
        for _ in range(2):
            await places.enter("a")
            places.leave("a", 15.0, answered=False)
        await places.enter("a"), await places.enter("a")
        assert max([await places.enter("a") for _ in range(10_000)]) <= 60

    asyncio.run(enter())


def test_calls_of_the_store_go_together_and_one_that_fails_stops_no_other() -> None:
    sizes: list[int] = []

    async def call(items: list[int]) -> list[str]:
        sizes.append(len(items))
        await asyncio.sleep(0.01)
        if len(sizes) == 2:
            raise StoreUnavailable
        if 7 in items:
            raise ValueError("It cannot be read.")
        return [str(item) for item in items]

    async def act() -> list[object]:
        batches = Batches("read", call, 4, OutageLog())
        running = asyncio.ensure_future(batches.run())
        found = await asyncio.gather(*(batches(item) for item in range(9)), return_exceptions=True)
        running.cancel()
        return list(found)

    found = asyncio.run(act())
    assert isinstance(found.pop(7), StoreRefused)
    assert found == [str(item) for item in range(9) if item != 7]
    assert sizes[0] == 4
