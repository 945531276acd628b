"""The reason of a server's error, found in every form that servers use."""

from __future__ import annotations

import json

import pytest

from app.providers.reasons import MAX_CHARACTERS, reason_in

REASONS = {
    '{"error": "model \'x\' not found"}': "model 'x' not found",
    '{"error": {"message": "too long", "code": "context"}}': "too long",
    '{"error": {"code": "busy"}}': "busy",
    '{"error": {"message": {"text": "deep"}}}': "deep",
    '{"errors": [{"message": "a"}, "b"]}': "a; b",
    '{"detail": "messages: field required"}': "messages: field required",
    '{"detail": [{"loc": ["body", "top_p"], "msg": "too large"}, {"msg": "b"}]}': (
        "body.top_p: too large; b"
    ),
    '{"message": "hello"}': "hello",
    '{"code": 1001, "msg": "busy"}': "busy",
    '{"error_code": 18, "error_msg": "limit"}': "limit",
    '{"object": "error", "message": "m", "code": 40303}': "m",
    '{"error": {"message": "It failed", "metadata": {"raw": "upstream"}}}': "It failed; upstream",
    '"just text"': "just text",
    "plain\r\n  text": "plain text",
    "<html><style>x{}</style><h1>502 Bad &amp; Gateway</h1></html>": "502 Bad & Gateway",
    '{"error": {"message": "cut \\"off\\"", "more": "': 'cut "off"',
    '{"error": true}': "",
    "{}": "",
    "[]": "",
    "null": "",
    "": "",
}


@pytest.mark.parametrize(("body", "reason"), REASONS.items(), ids=[body[:40] for body in REASONS])
def test_the_reason_is_found_in_every_form(body: str, reason: str) -> None:
    assert reason_in(body.encode()) == reason


def test_the_encoding_that_the_server_names_is_used() -> None:
    assert reason_in('{"error": "模型"}'.encode("gbk"), "gbk") == "模型"
    assert reason_in('{"error": "模型"}'.encode("utf-16")) == "模型"
    assert reason_in(b"caf\xe9", "no-such-encoding") == "caf"
    assert reason_in(b"caf\xe9", "hex") == "caf"


def test_secrets_are_masked_also_at_the_cut_and_those_that_look_like_none() -> None:
    assert reason_in(b'{"error": "no such key: sk-abcdefgh12345678"}') == "no such key: [masked]"
    assert (
        reason_in(b"key 0f8fad5b-d9cb-469f is wrong", secret="0f8fad5b-d9cb-469f")
        == "key [masked] is wrong"
    )
    cut = reason_in(("x " * (MAX_CHARACTERS // 2 - 5) + "sk-abcdefgh12345678").encode())
    assert "sk-" not in cut


@pytest.mark.parametrize(
    "body", [b"x" * 100_000, b"[" * 100_000, b"\x00\xff" * 50_000, b"<" * 100_000, b"\x1f\x8b\x08"]
)
def test_a_reason_is_one_line_of_bounded_length(body: bytes) -> None:
    reason = reason_in(body)
    assert len(reason) <= MAX_CHARACTERS
    assert reason.isprintable()


def test_a_lone_surrogate_does_not_get_into_a_message() -> None:
    assert reason_in(b'{"error": "\\ud800!"}') == "?!"


def test_what_is_nested_too_deep_is_passed_over() -> None:
    body: object = "hidden"
    for _ in range(50):
        body = {"error": body}
    assert reason_in(json.dumps(body).encode()) == ""
