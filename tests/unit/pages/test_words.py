"""Times, durations and numbers as pages show them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.pages import words

NOW = datetime(2026, 11, 27, 1, 20, 3, 987654, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-30, "just now"),
        (0, "just now"),
        (1.9, "just now"),
        (2, "2 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400, "1 d ago"),
        (40 * 86_400, "40 d ago"),
    ],
)
def test_a_moment_is_shown_as_how_long_ago_it_was(seconds: float, shown: str) -> None:
    assert words.ago(NOW - timedelta(seconds=seconds), NOW) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 ms"),
        (0.0042, "4 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.10 s"),
        (0.42, "0.42 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (61, "1 min 1 s"),
        (3599.6, "1 h"),
        (3661, "1 h 1 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_is_shown_with_two_units_at_most(seconds: float, shown: str) -> None:
    assert words.duration(seconds) == shown


def test_a_tooltip_has_the_exact_time() -> None:
    assert words.exact(NOW) == "2026-11-27 01:20:03 UTC"
    assert words.iso(NOW) == "2026-11-27T01:20:03Z"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (999, "999"), (1_234_567, "1\u202f234\u202f567")]
)
def test_large_numbers_are_shown_in_groups(count: int, shown: str) -> None:
    assert words.number(count) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 中文, 👩‍👩‍👧, עברית, a\u00a0b", "plain, é, 中文, 👩‍👩‍👧, עברית, a\u00a0b"),
        ("lines\r\nand\ttabs", "lines\r\nand\ttabs"),
        ("a\x00b\x1b[31mc\x7f\x85", "a\\u0000b\\u001b[31mc\\u007f\\u0085"),
        ("gpj\u202egnp.exe\u2069", "gpj\\u202egnp.exe\\u2069"),
        ("half \ud83d of a pair", "half \\ud83d of a pair"),
    ],
)
def test_characters_that_hide_or_turn_a_text_around_are_written_out(text: str, shown: str) -> None:
    assert words.visible(text) == shown
