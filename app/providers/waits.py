"""Reads how long a server asks its callers to wait (`Retry-After`), within a bound.

`openai_provider.py` calls `named_wait` for each reply. A server may name anything: infinity, a
year, nonsense. If it is not a finite number of seconds within the bound, it is ignored, and the
caller's own backoff decides.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any

DEFAULT_LIMIT_SECONDS = 3600.0
"""The default of MAX_RETRY_AFTER."""

_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*", re.ASCII)


def bounded(seconds: Any, limit_seconds: float) -> float | None:
    """The wait if it is a number from 0 to the limit, else None."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    return float(seconds) if 0 <= seconds <= limit_seconds else None  # nan compares as false


def named_wait(headers: Mapping[str, str], now: float, limit_seconds: float) -> float | None:
    """The wait in seconds that the headers of a response ask for; None without a usable one.

    The names of the headers are in lower case; `now` is in seconds since the epoch. `Retry-After`
    is a number of seconds, or an HTTP date in any of the three forms of RFC 9110; a date in the
    past is 0.
    """
    # First the milliseconds (a header of OpenAI), because they are more exact.
    after_ms = headers.get("retry-after-ms", "")
    after = headers.get("retry-after", "")
    for seconds in (_number(after_ms) / 1000, _number(after), _seconds_until(after, now)):
        wait = bounded(seconds, limit_seconds)
        if wait is not None:
            return wait
    return None


def _number(text: str) -> float:
    """A number in digits; nan for anything else, even if Python reads it (`inf`, `1_0`, `1e9`)."""
    found = _NUMBER.fullmatch(text)
    return float(found[1]) if found else math.nan


def _seconds_until(text: str, now: float) -> float:
    """The seconds from now to an HTTP date; nan if it is no date."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
        # The asctime form has no zone, but every HTTP date is in UTC.
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, zoned.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return math.nan
