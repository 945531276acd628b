"""Wrong keys are counted for each peer, for a minute, in bounded memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.keys import tries
from app.keys.tries import MAX_PEERS, WRONG_KEYS_A_MINUTE, WrongKeys


def exhausted(wrong: WrongKeys, peer: str) -> WrongKeys:
    for _ in range(WRONG_KEYS_A_MINUTE):
        assert wrong.wait_seconds(peer) == 0
        wrong.count(peer)
    return wrong


def test_a_peer_with_too_many_waits_for_the_rest_of_its_minute_and_others_do_not() -> None:
    wrong = exhausted(WrongKeys(), "a")
    assert 58 <= wrong.wait_seconds("a") <= 60
    assert wrong.wait_seconds("b") == 0


def test_after_its_minute_it_may_try_as_often_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(tries, "time", clock)
    wrong = exhausted(WrongKeys(), "a")
    clock.now = 159.0
    assert wrong.wait_seconds("a") == 1
    for clock.now in (160.0, 4000.0):
        exhausted(wrong, "a")


def test_past_so_many_peers_the_oldest_is_forgotten() -> None:
    wrong = exhausted(WrongKeys(), "first")
    exhausted(wrong, "second")
    for number in range(MAX_PEERS - 1):
        wrong.count(f"peer {number}")
    assert wrong.wait_seconds("first") == 0
    assert wrong.wait_seconds("second") > 0
