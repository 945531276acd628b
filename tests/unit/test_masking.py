"""What looks like a secret does not get past the mask; what does not, does."""

from __future__ import annotations

import pytest

from app.masking import mask

SECRET = "s3cr3tvalue0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f"sk-{SECRET}",
        f"sk-proj-{SECRET}_x",
        f"Authorization: Bearer {SECRET}",
        f"bearer {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"redis://user:{SECRET}@host:6379/0",
        f"redis://:{SECRET}@host",
        f"api_key={SECRET}",
        f'{{"apiKey": "{SECRET}", "model": "x"}}',
        f"'password': '{SECRET}'",
        f"X-API-Key: {SECRET}",
        f"https://host/path?token={SECRET}&page=2",
        f"client_secret={SECRET}",
        f"ghp_{SECRET}",
        f"xoxb-{SECRET}",
        f"eyJhbGciOiJ9.{SECRET}.{SECRET}",
    ],
)
def test_a_secret_is_masked_and_the_rest_stays(text: str) -> None:
    masked = mask(f"before {text} after")
    assert SECRET not in masked
    assert "[masked]" in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=50 is too small",
        "The secret of good soup: patience is not masked as a whole",
        "exec_0mhx2k3l4abcdefghijk took 3 tokens",
        "Ask me: a question about task-force",
        "redis://host:6379/0",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert mask(text) == text
