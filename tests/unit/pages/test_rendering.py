"""How pages are rendered beside other requests."""

from __future__ import annotations

import pytest

from app.pages import rendering


def test_a_page_that_takes_long_gives_turns_to_other_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, turns = [0.0], []
    monkeypatch.setattr("app.pages.rendering.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("app.pages.rendering.give_way", lambda: turns.append(clock[0]))

    def parts():
        for number in range(10):
            clock[0] += rendering.TURN_SECONDS * 0.4
            yield str(number)

    assert "".join(rendering._in_turns(parts())) == "0123456789"
    assert len(turns) == 3
    assert "".join(rendering._in_turns("short")) == "short"
    assert len(turns) == 3
