"""The throttle for invalid keys: each client address has its own minute, and memory is bounded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.services import invalid_keys as throttle
from app.services.invalid_keys import INVALID_KEYS_PER_MINUTE, MAX_CLIENTS, InvalidKeyThrottle


def exhaust(counts: InvalidKeyThrottle, address: str) -> InvalidKeyThrottle:
    """Uses up the failures that the address may have in a minute."""
    for _ in range(INVALID_KEYS_PER_MINUTE):
        assert counts.wait_seconds(address) == 0
        counts.count(address)
    return counts


def test_a_client_with_too_many_waits_for_the_rest_of_its_minute_and_others_do_not() -> None:
    counts = exhaust(InvalidKeyThrottle(), "a")
    assert 58 <= counts.wait_seconds("a") <= 60
    assert counts.wait_seconds("b") == 0


def test_after_its_minute_it_may_try_as_often_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(throttle, "time", clock)
    counts = exhaust(InvalidKeyThrottle(), "a")
    clock.now = 159.0
    assert counts.wait_seconds("a") == 1
    for clock.now in (160.0, 4000.0):
        exhaust(counts, "a")


def test_beyond_the_largest_number_of_clients_the_first_is_forgotten() -> None:
    counts = exhaust(InvalidKeyThrottle(), "first")
    exhaust(counts, "second")
    for number in range(MAX_CLIENTS - 1):
        counts.count(f"client {number}")
    assert counts.wait_seconds("first") == 0
    assert counts.wait_seconds("second") > 0
