"""Secrets are masked in every line of the log: API keys, tokens and passwords in URLs."""

from __future__ import annotations

import pytest

from app.telemetry.logs import masking


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("a key exkey_abcDEF123 in a line", "a key [masked] in a line"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer [masked]"),
        ("authorization: bearer abc.def-1", "authorization: bearer [masked]"),
        ("redis://user:word@host/0", "redis://[masked]@host/0"),
        ("sk-abcdefgh12345", "[masked]"),
        ("it is chosen.key+1 here", "it is [masked] here"),
        ("it is chosenXkey+1 here", "it is chosenXkey+1 here"),
    ],
)
def test_a_secret_is_masked_wherever_it_is(line: str, masked: str) -> None:
    assert masking(["chosen.key+1"])(None, "", {"event": line, "count": 3}) == {
        "event": masked,
        "count": 3,
    }
