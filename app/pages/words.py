"""Writes times, numbers and phases for people. Pure functions; templates use them as filters."""

from __future__ import annotations

import re
from datetime import datetime

from app.domain.execution import Phase

# Control characters but for tabs and ends of lines, marks that change the direction of the text
# around them, and halves of surrogate pairs. `static/execution.js` has the same ones.
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_PHASES = {Phase.RETRY_WAIT: "waiting to retry", Phase.CANCELLING: "cancelling"}

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def ago(moment: datetime, now: datetime) -> str:
    """How long ago a moment was: `just now`, `12 s ago`, `3 min ago`, `2 h ago`, `5 d ago`.

    A moment in the future is `just now`: the store's clock may be ahead of this machine's.
    """
    seconds = int((now - moment).total_seconds())
    if seconds < 2:
        return "just now"
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def duration(seconds: float) -> str:
    """A length of time, with two units at most: `4 ms`, `0.34 s`, `12.3 s`, `3 min 12 s`."""
    seconds = max(0.0, seconds)
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, part_unit in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {part_unit}" if rest else "")
    return f"{whole} s"


def exact(moment: datetime) -> str:
    """A time for a tooltip: `2026-11-27 01:20:03 UTC`."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def iso(moment: datetime) -> str:
    """A time for `<time datetime>`."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}Z"


def number(count: int) -> str:
    """With thin spaces between thousands: `100 000`."""
    return f"{count:,}".replace(",", "\u202f")


def phase(found: Phase | None) -> str:
    """What an execution does that its status does not say; empty if there is nothing to add."""
    return _PHASES.get(found, "") if found else ""


def visible(text: str) -> str:
    """Writes characters as JSON does (`\\u202e`) that a page would not show, or that would change
    the order of the words beside them. So no text can pretend to be another one.
    """
    if text.isprintable():
        return text
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
