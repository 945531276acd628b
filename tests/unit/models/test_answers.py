"""Replies with status 200: the answer as far as there is one, or an error of the right kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.providers.answers import read_answer
from app.providers.base import (
    Completion,
    ModelAnswerInvalid,
    ModelAuthenticationError,
    ModelError,
    ModelRateLimited,
    ModelRejected,
    ModelUnavailable,
)
from app.providers.faults import BY_STATUS, refused
from app.providers.reply import Reply

CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}


def answered(message: Any = None, finish_reason: Any = "stop", **more: Any) -> Completion:
    """The completion of an answer with one choice."""
    choice = {"finish_reason": finish_reason, "message": message}
    return read_answer(Reply(json.dumps({"choices": [choice], **more}).encode()), "asked")


CONTENTS: list[tuple[Any, str]] = [
    ("Hi!", "Hi!"),
    (" \n", " \n"),
    ([{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}], "Hi!"),
    ([{"type": "output_text", "text": "Hi!"}], "Hi!"),
    ([{"type": "text", "text": {"value": "Hi!", "annotations": []}}], "Hi!"),
    (["Hi", "!"], "Hi!"),
    ({"type": "text", "text": "Hi!"}, "Hi!"),
    (
        [{"type": "thinking", "thinking": "hm", "text": "hm"}, {"type": "text", "text": "Hi!"}],
        "Hi!",
    ),
    ([{"type": "image_url"}, None, 5, {"type": "text", "text": "Hi!"}], "Hi!"),
]


@pytest.mark.parametrize(
    ("content", "text"), CONTENTS, ids=[str(content)[:50] for content, _ in CONTENTS]
)
def test_a_content_is_a_text_or_a_list_of_parts(content: Any, text: str) -> None:
    assert answered({"content": content}).text == text


@pytest.mark.parametrize("finish_reason", ["stop", "length", "content_filter", "tool_calls", "eos"])
def test_text_is_an_answer_with_its_finish_reason(finish_reason: str) -> None:
    completion = answered({"content": "cut o"}, finish_reason)
    assert (completion.text, completion.finish_reason) == ("cut o", finish_reason)


@pytest.mark.parametrize("finish_reason", [None, "", 5, {}])
def test_a_finish_reason_that_is_no_word_is_none(finish_reason: Any) -> None:
    assert answered({"content": "Hi!"}, finish_reason).finish_reason is None


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I cannot help."},
        {"content": "", "refusal": "I cannot help."},
        {"content": [{"type": "refusal", "refusal": "I cannot help."}]},
    ],
)
def test_a_refusal_is_the_text_and_is_marked_as_a_refusal(message: dict[str, Any]) -> None:
    completion = answered(message)
    assert (completion.text, completion.refusal) == ("I cannot help.", "I cannot help.")


@pytest.mark.parametrize(
    ("message", "calls"),
    [
        ({"content": None, "tool_calls": [CALL]}, [CALL]),
        ({"tool_calls": [CALL, None, "x"]}, [CALL]),
        (
            {"content": "", "function_call": CALL["function"]},
            [{"type": "function", "function": CALL["function"]}],
        ),
    ],
)
def test_tool_calls_alone_are_an_answer(message: dict[str, Any], calls: list[Any]) -> None:
    completion = answered(message, "tool_calls")
    assert (completion.text, completion.tool_calls, completion.finish_reason) == (
        "",
        calls,
        "tool_calls",
    )


SILENT: list[tuple[dict[str, Any], str | None, type[ModelError], bool, str]] = [
    ({"content": ""}, "stop", ModelAnswerInvalid, True, "nothing .*stop"),
    ({"content": None}, None, ModelAnswerInvalid, True, "nothing .*not given"),
    ({"content": []}, "stop", ModelAnswerInvalid, True, "nothing"),
    ({"content": 5}, "stop", ModelAnswerInvalid, True, "nothing"),
    ({"content": None, "tool_calls": []}, "tool_calls", ModelAnswerInvalid, True, "tool_calls"),
    (
        {"content": None, "reasoning_content": "hm"},
        "stop",
        ModelAnswerInvalid,
        True,
        "only its reasoning",
    ),
    ({"content": "", "reasoning": "hm"}, "stop", ModelAnswerInvalid, True, "only its reasoning"),
    (
        {"content": [{"type": "thinking", "thinking": "hm"}]},
        "stop",
        ModelAnswerInvalid,
        True,
        "only its reasoning",
    ),
    ({"content": "", "reasoning": "hm"}, "length", ModelAnswerInvalid, False, "Raise max_tokens"),
    ({"content": None}, "content_filter", ModelRejected, False, "content filter"),
]


@pytest.mark.parametrize(
    ("message", "finish_reason", "kind", "transient", "said"),
    SILENT,
    ids=[str(case[:2]) for case in SILENT],
)
def test_no_answer_at_all_is_a_failure_that_names_the_reason(
    message: dict[str, Any],
    finish_reason: str | None,
    kind: type[ModelError],
    transient: bool,
    said: str,
) -> None:
    with pytest.raises(kind, match=said) as raised:
        answered(message, finish_reason)
    assert (type(raised.value), raised.value.transient) == (kind, transient)


NO_ANSWERS: list[tuple[str, type[ModelError], bool, str]] = [
    # An error in the body.
    (
        '{"error": {"message": "upstream rate limit", "code": 429}}',
        ModelRateLimited,
        True,
        "upstream rate limit",
    ),
    ('{"error": {"message": "m", "code": "429"}}', ModelRateLimited, True, "m"),
    ('{"error": {"message": "m", "status": 503}}', ModelUnavailable, True, "m"),
    ('{"error": {"message": "m", "code": 401}}', ModelAuthenticationError, False, "m"),
    ('{"error": {"message": "m", "code": 400}}', ModelRejected, False, "m"),
    ('{"error": {"message": "m", "type": "rate_limit_exceeded"}}', ModelRateLimited, True, "m"),
    (
        '{"error": {"message": "m", "code": "invalid_api_key"}}',
        ModelAuthenticationError,
        False,
        "m",
    ),
    ('{"error": {"message": "m", "type": "invalid_request_error"}}', ModelRejected, False, "m"),
    ('{"error": {"message": "m", "type": "generate_failed"}}', ModelUnavailable, True, "m"),
    ('{"error": {"message": "m"}}', ModelUnavailable, True, "m"),
    ('{"error": "model busy"}', ModelUnavailable, True, "model busy"),
    ('{"error": ["a", "b"]}', ModelUnavailable, True, "a; b"),
    ('{"object": "error", "message": "m", "type": "NotFoundError"}', ModelRejected, False, "m"),
    (
        '{"error": "half", "choices": [{"message": {"content": "Hi"}}]}',
        ModelUnavailable,
        True,
        "half",
    ),
    (
        '{"choices": [{"error": {"code": 502, "message": "m"}, "message": {"content": ""}}]}',
        ModelUnavailable,
        True,
        "m",
    ),
    # No choices.
    ('{"choices": null}', ModelAnswerInvalid, True, "no choices"),
    ('{"choices": []}', ModelAnswerInvalid, True, "no choices"),
    ('{"choices": {}}', ModelAnswerInvalid, True, "no choices"),
    ('{"choices": [null]}', ModelAnswerInvalid, True, "no choices"),
    ('{"choices": [{"message": null}]}', ModelAnswerInvalid, True, "no choices"),
    ("{}", ModelAnswerInvalid, True, "no choices"),
    ('{"code": 1001, "msg": "busy"}', ModelAnswerInvalid, True, "no choices: busy"),
    ('{"detail": "not here"}', ModelAnswerInvalid, True, "no choices: not here"),
    # Not an object.
    ("[]", ModelAnswerInvalid, True, "not an object"),
    ("null", ModelAnswerInvalid, True, "not an object"),
    ('"Hi!"', ModelAnswerInvalid, True, "not an object"),
    # Not JSON.
    ("", ModelAnswerInvalid, True, "empty body"),
    (" \r\n\n", ModelAnswerInvalid, True, "empty body"),
    ("<html><body>Log in</body></html>", ModelAnswerInvalid, True, "a web page: Log in"),
    ("OK", ModelAnswerInvalid, True, "not JSON: OK"),
    ('{"choices": [{"mess', ModelAnswerInvalid, True, "not JSON"),
    ("[" * 100_000, ModelAnswerInvalid, True, "not JSON"),
    ('{"n": ' + "9" * 10_000 + "}", ModelAnswerInvalid, True, "not JSON"),
    ('data: {"choices": []}\n\ndata: [DONE]', ModelAnswerInvalid, False, "event stream"),
    (': keep-alive\n\ndata: {"choices": []}', ModelAnswerInvalid, False, "event stream"),
    ('data: {"error": {"message": "m", "code": 429}}\n\n', ModelRateLimited, True, "m"),
]


@pytest.mark.parametrize(
    ("body", "kind", "transient", "said"), NO_ANSWERS, ids=[case[0][:50] for case in NO_ANSWERS]
)
def test_each_reply_without_an_answer_has_its_own_error(
    body: str, kind: type[ModelError], transient: bool, said: str
) -> None:
    with pytest.raises(kind, match=said) as raised:
        read_answer(Reply(body.encode(), wait_seconds=3.0), "asked")
    assert (type(raised.value), raised.value.transient) == (kind, transient)
    if kind is ModelRateLimited:
        assert raised.value.retry_after_seconds == 3
    assert len(str(raised.value)) < 700


def test_an_event_stream_is_known_by_its_header_too() -> None:
    with pytest.raises(ModelAnswerInvalid, match="event stream"):
        read_answer(
            Reply(b"retry: 5", headers={"content-type": "text/event-stream; charset=utf-8"}),
            "asked",
        )
    whole = Reply(
        b'{"choices": [{"message": {"content": "Hi!"}}]}',
        headers={"content-type": "text/event-stream"},
    )
    assert read_answer(whole, "asked").text == "Hi!"


@pytest.mark.parametrize(
    ("encoding", "header"),
    [
        ("utf-8", "application/json"),
        ("utf-8-sig", "application/json; charset=utf-8"),
        ("utf-16", "application/json"),
        ("utf-8", "application/json; charset=no-such"),
        ("gb18030", "application/json; charset=GB18030"),
        ("latin-1", 'text/plain; charset="ISO-8859-1"'),
    ],
)
def test_an_answer_is_read_in_its_encoding(encoding: str, header: str) -> None:
    text = "Grüß" if encoding == "latin-1" else "你好"
    body = json.dumps({"choices": [{"message": {"content": text}}]}, ensure_ascii=False).encode(
        encoding
    )
    assert read_answer(Reply(body, headers={"content-type": header}), "asked").text == text


def test_an_answer_in_no_encoding_is_not_guessed() -> None:
    body = '{"choices": [{"message": {"content": "Grüß"}}]}'.encode("latin-1")
    with pytest.raises(ModelAnswerInvalid):
        read_answer(Reply(body), "asked")


@pytest.mark.parametrize("model", [None, "", 5, ["x"]])
def test_a_model_without_a_name_is_the_one_that_was_asked(model: Any) -> None:
    assert answered({"content": "Hi!"}, model=model).model == "asked"


def test_a_name_of_the_servers_is_bounded_and_can_be_stored() -> None:
    completion = answered({"content": "Hi!"}, "x\n\ud800" * 1000, model="m" * 10_000 + "\ud800")
    assert len(completion.model) <= 256
    assert len(completion.finish_reason or "") <= 256
    assert f"{completion.model}{completion.finish_reason}".encode()


def test_nan_in_an_answer_is_null_and_the_place_of_an_old_text_is_known() -> None:
    body = b'{"choices": [{"text": "Hi!", "logprobs": NaN}], "usage": {"total_tokens": NaN}}'
    completion = read_answer(Reply(body), "asked")
    assert (completion.text, completion.total_tokens) == ("Hi!", None)


def test_a_secret_that_the_server_repeats_is_not_passed_on() -> None:
    reply = Reply(b'{"error": "wrong: 0f8fad5b-d9cb-469f"}', secret="0f8fad5b-d9cb-469f")
    with pytest.raises(ModelError, match=r"\[masked\]") as raised:
        read_answer(reply, "asked")
    assert "0f8fad5b" not in str(raised.value)


STATUSES: list[tuple[int, type[ModelError]]] = [
    *BY_STATUS.items(),
    (400, ModelRejected),
    (402, ModelRejected),
    (404, ModelRejected),
    (413, ModelRejected),
    (422, ModelRejected),
    (500, ModelUnavailable),
    (502, ModelUnavailable),
    (529, ModelUnavailable),
    (302, ModelRejected),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_a_status_decides_which_error_it_is(status: int, kind: type[ModelError]) -> None:
    error = refused(Reply(b'{"detail": "no"}', status))
    assert type(error) is kind
    assert str(status) in str(error)
    assert ("redirect" if status == 302 else ": no") in str(error)
    assert "without a reason" in str(refused(Reply(b"", 500)))


def test_a_server_may_say_whether_trying_again_helps() -> None:
    assert not refused(Reply(b"", 500, {"x-should-retry": "false"})).transient
    assert refused(Reply(b"", 400, {"x-should-retry": "true"})).transient
    assert refused(Reply(b"", 429)).transient
    assert not refused(
        Reply(b'{"error": {"message": "m", "code": "insufficient_quota"}}', 429)
    ).transient
