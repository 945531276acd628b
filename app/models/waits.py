"""How long a server asks its callers to wait, read from what it sends, within a bound.

A server may name anything: infinity, a year, nonsense. What is not a finite number of seconds within
the bound counts as not said, and the caller's own back-off decides.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any

DEFAULT_LIMIT_SECONDS = 3600.0

_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*", re.ASCII)


def bounded(seconds: Any, limit_seconds: float) -> float | None:
    """The wait, if it is a number from 0 to the limit; else None."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    return float(seconds) if 0 <= seconds <= limit_seconds else None  # false for nan, too


def named_wait(headers: Mapping[str, str], now: float, limit_seconds: float) -> float | None:
    """The wait in a response's headers, whose names are in lower case; None without a usable one.

    `retry-after-ms` goes before `Retry-After`, because it is more exact. `Retry-After` is a number of
    seconds or an HTTP date in any of the three forms of RFC 9110; a date that has passed is 0.
    `now` is in seconds since the epoch.
    """
    after_ms, after = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    for seconds in (_number(after_ms) / 1000, _number(after), _seconds_until(after, now)):
        wait = bounded(seconds, limit_seconds)
        if wait is not None:
            return wait
    return None


def _number(text: str) -> float:
    """A number as digits; nan for anything else that Python would read (`inf`, `1_0`, `1e9`)."""
    found = _NUMBER.fullmatch(text)
    return float(found[1]) if found else math.nan


def _seconds_until(text: str, now: float) -> float:
    """From now to an HTTP date; nan if it is none."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
        # The form of asctime has no zone; every HTTP date is in UTC.
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, zoned.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return math.nan
