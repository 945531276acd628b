"""The wait that a server names: a finite number of seconds within the bound, or nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from app.providers.base import ModelError, ModelRateLimited
from app.providers.waits import bounded, named_wait
from app.runtime.errors import RunFailed

NOW = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT"""

LIMIT = 3600.0

AFTER = {
    "7": 7,
    "0": 0,
    " 7 ": 7,
    "1.5": 1.5,
    ".5": 0.5,
    "007": 7,
    "3600": 3600,
    # Too long.
    "3600.1": None,
    "31536000": None,
    "9999999999": None,
    "9" * 5000: None,
    # Not a number of seconds.
    "inf": None,
    "-inf": None,
    "Infinity": None,
    "nan": None,
    "-1": None,
    "1e3": None,
    "1e400": None,
    "1_0": None,
    "0x10": None,
    "\u0663": None,
    "7s": None,
    "1m30s": None,
    "5, 5": None,
    "soon": None,
    "": None,
    # Dates, in the three forms of RFC 9110.
    "Sun, 06 Nov 1994 08:49:43 GMT": 6,
    "Sunday, 06-Nov-94 08:49:43 GMT": 6,
    "Sun Nov  6 08:49:43 1994": 6,
    "Sun, 06 Nov 1994 09:49:37 GMT": 3600,
    "Sun, 06 Nov 1994 09:49:38 GMT": None,
    "Mon, 06 Nov 1995 08:49:37 GMT": None,
    "Sun, 06 Nov 1994 08:49:37 GMT": 0,
    "Sat, 05 Nov 1994 08:49:37 GMT": 0,
    "Thu, 01 Jan 1970 00:00:00 GMT": 0,
    "Sun, 06 Nov 99999 08:49:37 GMT": None,
    "Sun, 99 Nov 1994 08:49:37 GMT": None,
    "Sun, 06 Nov 1994 08:49:37 +999999999": None,
    "1994-11-06": None,
}


@pytest.mark.parametrize(("text", "seconds"), AFTER.items(), ids=[text[:40] for text in AFTER])
def test_retry_after_is_read_in_every_form_and_within_the_bound(
    text: str, seconds: float | None
) -> None:
    assert named_wait({"retry-after": text}, NOW, LIMIT) == seconds


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [
        ("1500", 1.5),
        ("0", 0),
        ("3600000", 3600),
        ("3600001", None),
        ("inf", None),
        ("nan", None),
        ("-5", None),
    ],
)
def test_retry_after_ms_is_read_too(milliseconds: str, seconds: float | None) -> None:
    assert named_wait({"retry-after-ms": milliseconds}, NOW, LIMIT) == seconds


@pytest.mark.parametrize(
    ("milliseconds", "after", "seconds"),
    [
        ("1500", "2", 1.5),
        ("inf", "2", 2),
        ("soon", "2", 2),
        ("99999999", "2", 2),
        ("inf", "inf", None),
        ("10", "x", 0.01),
    ],
)
def test_of_both_headers_the_more_exact_one_counts_if_it_is_of_use(
    milliseconds: str, after: str, seconds: float | None
) -> None:
    assert named_wait({"retry-after-ms": milliseconds, "retry-after": after}, NOW, LIMIT) == seconds


def test_without_a_header_no_wait_is_named() -> None:
    assert named_wait({}, NOW, LIMIT) is None


NUMBERS = [
    (7, 7.0),
    (0, 0.0),
    (0.5, 0.5),
    (3600, 3600.0),
    (3601, None),
    (-1, None),
    (math.inf, None),
    (-math.inf, None),
    (math.nan, None),
    (10**400, None),
    (True, None),
    ("7", None),
    ([], None),
    (None, None),
]


@pytest.mark.parametrize(("given", "kept"), NUMBERS, ids=[repr(given)[:20] for given, _ in NUMBERS])
def test_an_error_never_holds_another_wait_whoever_raises_it(
    given: Any, kept: float | None
) -> None:
    assert bounded(given, LIMIT) == kept
    error = ModelRateLimited("Later.", retry_after_seconds=given)
    assert error.retry_after_seconds == kept
    assert RunFailed.from_error(error, {}).retry_after_seconds == kept
    with pytest.raises(AttributeError):
        error.retry_after_seconds = math.inf  # type: ignore[misc]


def test_a_flows_own_kind_of_error_is_bounded_as_well() -> None:
    class Mine(ModelError):
        retry_after_seconds = math.inf  # type: ignore[assignment]

        def __init__(self) -> None:
            pass

    assert RunFailed.from_error(Mine(), {}).retry_after_seconds is None
