"""How long an execution waits before it is tried again."""

from __future__ import annotations

from app.work.attempt import Attempt
from app.work.runs import _backoff_seconds


def attempt(retried: int, *backoff_seconds: float) -> Attempt:
    return Attempt("exec_1", "1", 1, retried, 600, 3, list(backoff_seconds), "default", None, b"")


def test_the_configured_waits_are_taken_in_turn_with_jitter_and_the_last_one_stays() -> None:
    for retried, wait in ((0, 1), (1, 5), (2, 30), (7, 30)):
        waits = {_backoff_seconds(attempt(retried, 1, 5, 30), None) for _ in range(50)}
        assert len(waits) > 10
        assert all(wait * 0.8 <= each <= wait for each in waits)


def test_the_providers_own_wish_goes_first_to_the_second() -> None:
    assert _backoff_seconds(attempt(0, 1, 5, 30), 17.0) == 17.0
