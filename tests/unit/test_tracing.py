"""`app.telemetry.tracing.accepted`: which `traceparent` headers are passed on, and how."""

from __future__ import annotations

import pytest

from app.telemetry.tracing import accepted

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


def test_a_valid_header_is_passed_on_unchanged() -> None:
    assert accepted(VALID) == VALID
    assert accepted(f"00-{TRACE}-{PARENT}-00") == f"00-{TRACE}-{PARENT}-00"


@pytest.mark.parametrize("rest", ["", "-", "-what-comes-later"])
def test_a_header_of_a_later_version_is_passed_on_as_version_00(rest: str) -> None:
    assert accepted(f"cc-{TRACE}-{PARENT}-ff{rest}") == VALID


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        VALID.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"{VALID}-more",
        f"{VALID}x",
        f" {VALID}",
        f"{VALID}\n",
        f"{VALID},{VALID}",
        f"cc-{TRACE}-{PARENT}-01x",
        VALID.replace("4", "٤"),  # a digit of another script
    ],
)
def test_an_invalid_header_is_ignored(header: str | None) -> None:
    assert accepted(header) is None
