"""What is kept of rendered pages, and for how long."""

from __future__ import annotations

import time

import pytest

from app.pages.kept import KEPT_SECONDS, Kept


def test_a_text_is_kept_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    kept = Kept()
    assert kept.get("a") is None
    kept.put("a", "text", read_at=99.9)
    clock[0] = 99.9 + KEPT_SECONDS - 0.01
    assert kept.get("a") == "text"
    clock[0] = 99.9 + KEPT_SECONDS
    assert kept.get("a") is None


def test_the_oldest_text_makes_room() -> None:
    kept = Kept(most=2)
    for key in ("a", "b", "a", "c"):
        kept.put(key, key, read_at=time.monotonic() + 60)
    assert [kept.get(key) for key in "abc"] == ["a", None, "c"]
