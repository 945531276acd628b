"""`app.telemetry.masking`: what looks like a secret is masked, other text is not, in linear time."""

from __future__ import annotations

import re
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry.masking import Mask, is_secret_name, mask
from tests.support.cpu_time import cpu_seconds

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
        f"whsec_{SECRET}",
        f"whsec_ab+/{SECRET}==",
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
def test_text_without_a_secret_is_not_changed(text: str) -> None:
    assert mask(text) == text


# The patterns as they were before they were made linear: simple to read, and slow on hostile texts.
_NAMED_BEFORE = (
    r"(?i:(?:api[_-]?key|access[_-]?key|token|passw(?:or)?d|secret|authorization)"
    r"['\"]?\s*[=:]\s*['\"]?)"
)
BEFORE = re.compile(
    rf"({_NAMED_BEFORE})(?!(?i:bearer|basic) )[^\s'\",}}&]+"
    r"|\bexkey_\w+|\bsk-[\w\-]{8,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w\-]{30,}|\bgh[pousr]_\w{20,}"
    r"|\bxox[abprs]-[\w\-]{10,}|\beyJ[\w\-]+\.[\w\-]+\.[\w\-]*|(?<=(?i:bearer) )[^\s'\",]+"
    r"|(?<=(?i:basic) )[A-Za-z0-9+/=]{8,}|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"
)

PIECES = [
    *("eyJ", "sk-", "exkey_", "AKIA", "AIza", "ghp_", "xoxb-", "bearer ", "Basic ", "://"),
    *("Authorization", "api_key", "accessKey", "token", "passwd", "SECRET", "=", ":", " ", "'"),
    *('"', ".", "-", "_", "@", "/", ",", "}", "&", "\n", "\\", "a", "B", "7", "abcdefgh"),
    *("0123456789ABCDEF", "x" * 30, "\u0130", "\u017f", "\u212a"),
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_the_linear_patterns_mask_all_that_the_simple_ones_do(text: str) -> None:
    hidden = {place for start, end in mask.places(text) for place in range(start, end)}
    for found in BEFORE.finditer(text):
        for place in range(found.end(1) if found[1] else found.start(), found.end()):
            assert place in hidden or not text[place].isalnum(), (text, found[0])


# Each of these, repeated, makes a pattern slow that reads the same characters twice.
WORST = [
    *("eyJ-", "eyJ-eyJ-.", "eyJa.", "a.", "-eyJ", "sk-", "sk-1 ", "exkey_", "exkey_a-"),
    *("whsec_", "whsec_a+", "whsec_ab=="),
    *("AKIA", "AIza", "AIza-", "ghp_", "xoxb-", "token", "token ", "token=", "token=a "),
    *("token: '", "token" + 50 * " ", 'secret" : ', "api_key_", "passwo", "bearer ", "bearer a"),
    *("Basic ", "basic a", "authorization: bearer ", "://", "://a:", "://a:b", "://a@"),
    *(":", "x", " ", '"', "\u0130"),
]


@pytest.mark.parametrize("unit", WORST)
@pytest.mark.parametrize("repeats_from", [0, -1])
def test_the_time_grows_with_the_text_and_no_faster(unit: str, repeats_from: int) -> None:
    head, rest = unit[:repeats_from], unit[repeats_from:] or unit
    short, long = (
        cpu_seconds(partial(mask, head + rest * (length // len(rest))))
        for length in (100_000, 1_000_000)
    )
    assert long < 40 * short + 0.1


@pytest.mark.parametrize("unit", WORST)
def test_only_the_beginning_of_a_very_long_text_is_read(unit: str) -> None:
    text = unit * (5_000_000 // len(unit))
    assert len(mask(text, 4096)) <= 4096
    assert cpu_seconds(lambda: mask(text, 4096)) < 0.2


@pytest.mark.parametrize("shift", range(0, 60, 3))
def test_a_secret_that_the_limit_cuts_in_half_is_masked(shift: int) -> None:
    for secret in (
        f"sk-{SECRET}",
        f"eyJ{SECRET}.{SECRET}.x",
        f"redis://me:{SECRET}@host",
        f"token={SECRET}",
    ):
        for room in (1, 4):  # at the end of what is shown, and of what is read
            front = (
                "eyJh." + "a" * 300 + ".b " + "x" * (100 * room - 320 - shift)
                if room == 4
                else "x" * (100 - shift)
            )
            shown = mask(f"{front} {secret}" + " and more" * 100, 100)
            assert len(shown) <= 100
            assert "s3c" not in shown, (front, secret)


def test_known_secrets_are_masked_and_the_longer_one_first() -> None:
    hide = Mask(["hunter2", "hunter2-and-more", ""])
    assert hide("it was hunter2-and-more, not hunter2") == "it was [masked], not [masked]"
    assert hide("hunter" * 10 + " hunter2" * 100, 70).count("hunter2") == 0


SECRET_NAMES = [
    *("password", "PASSWORD", "db_password", "userPassword", "passwd", "pwd", "passphrase"),
    *("secret", "client_secret", "api_key", "apiKey", "X-Api-Key", "openai_api_key", "access_key"),
    *("accessKeyId", "private_key", "token", "access_token", "refreshToken", "id-token"),
    *("Authorization", "credentials", "cookie", "Set-Cookie", "jwt"),
]

OTHER_NAMES = [
    *("max_tokens", "tokens_used", "message", "key", "keys", "monkey", "pass", "author"),
    *("tokenizer", "event"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_name_of_a_secret_is_recognized_in_any_spelling(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names_are_not_taken_for_those_of_secrets(name: str) -> None:
    assert not is_secret_name(name)
