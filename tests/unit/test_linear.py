"""Patterns that are applied to untrusted text take time in proportion to its length."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest

from app.api.credentials import _IN_QUERY
from app.api.json_body import _STRINGS
from app.api.schemas import NAME
from app.catalog.conditions import _NUMBER
from app.runtime.parsers import _BULLET, _FENCE
from tests.support.cpu_time import cpu_seconds


@pytest.mark.parametrize(
    ("pattern", "head", "unit", "tail"),
    [
        (_STRINGS, b'"', b'\\"', b"\\"),  # a body of a MiB took hours
        (_STRINGS, b"", b'"', b""),
        (_STRINGS, b'"', b"\\", b""),
        (_FENCE, "```\n", "\n```   ", "x"),
        (_FENCE, "```\n", "\n", "x"),
        (_FENCE, "", " ", "x"),
        (_BULLET, "", " ", "x"),
        (_BULLET, "", "1", "x"),
        (_NUMBER, "=", "1", "x"),
        (_NUMBER, "", "= ", "x"),
        (_IN_QUERY, "", "x_api", ""),
        (_IN_QUERY, "", "&", ""),
        (NAME.regex, "", "a", "\n"),
    ],
)
def test_the_time_grows_with_the_text_and_no_faster(
    pattern: re.Pattern[Any], head: Any, unit: Any, tail: Any
) -> None:
    short, long = (
        cpu_seconds(partial(_apply, pattern, head + unit * (length // len(unit)) + tail))
        for length in (4_000, 40_000)
    )
    assert long < 40 * short + 0.05


def _apply(pattern: re.Pattern[Any], text: Any) -> None:
    if pattern in (_BULLET, _FENCE, NAME.regex):  # used with `match` only
        pattern.match(text)
    else:
        pattern.sub(text[:0], text)
