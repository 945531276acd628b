"""What is kept of rendered pages, for how long, and for whom."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.pages.kept import KEPT_SECONDS, Kept


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, which stands still."""
    now = [100.0]
    monkeypatch.setattr("app.pages.kept.time.monotonic", lambda: now[0])
    return now


def test_a_text_is_kept_for_its_time_after_it_was_read(clock: list[float]) -> None:
    kept = Kept()

    def slow() -> str:
        clock[0] += 0.1
        return "old"

    assert kept.get("a", slow) == "old"
    clock[0] = 100.0 + KEPT_SECONDS - 0.01
    assert kept.get("a", lambda: "new") == "old"
    clock[0] = 100.0 + KEPT_SECONDS
    assert kept.get("a", lambda: "new") == "new"


def test_texts_of_other_keys_are_not_confused() -> None:
    kept = Kept()
    assert [kept.get(key, lambda key=key: key) for key in ("a", "b", "a")] == ["a", "b", "a"]


@pytest.mark.usefixtures("clock")
def test_all_who_ask_at_once_share_one_that_is_made_once() -> None:
    kept, made, may_end = Kept(), [], threading.Event()

    def make() -> str:
        made.append("once")
        may_end.wait(30)
        return "text"

    with ThreadPoolExecutor(20) as threads:
        asked = [threads.submit(kept.get, "a", make) for _ in range(20)]
        may_end.set()
        assert {one.result(30) for one in asked} == {"text"}
    assert made == ["once"]


def test_an_error_is_not_kept() -> None:
    kept = Kept()
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: str(1 / 0))
    assert kept.get("a", lambda: "text") == "text"


def test_texts_that_are_too_old_take_no_memory(clock: list[float]) -> None:
    kept = Kept()
    for number in range(1000):
        kept.get(number, lambda: "text")
        clock[0] += KEPT_SECONDS / 10
    assert len(kept._parts) <= 11
