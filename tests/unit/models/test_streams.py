"""Streamed answers over real HTTP, in all the forms in which servers send them."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.providers.base import (
    Completion,
    ModelAnswerInvalid,
    ModelError,
    ModelRateLimited,
    ModelRejected,
    ModelUnavailable,
    Stopped,
)
from app.providers.openai_provider import OpenAIProvider
from app.runtime.stop import StopSignal
from tests.support.model_server import Answer, ModelServer
from tests.support.pace import within

ASK = [{"role": "user", "content": "Hello"}]

Heard = list[tuple[str, int]]
Ask = Callable[..., tuple[Completion, Heard]]


@pytest.fixture
def ask(provider: Callable[..., OpenAIProvider]) -> Ask:
    """Asks for a stream. Returns the completion, and what was heard of it, by repeat."""

    def asked(options: dict[str, Any] | None = None, **settings: Any) -> tuple[Completion, Heard]:
        heard: Heard = []
        one = provider(**settings)
        completion = one.complete(
            ASK, on_text=lambda text, retry: heard.append((text, retry)), **options or {}
        )
        return completion, heard

    return asked


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def test_a_stream_gives_the_same_answer_as_a_whole_one(
    model: ModelServer, ask: Ask, provider: Callable[..., OpenAIProvider]
) -> None:
    model.play("Good day to you.", "Good day to you.")
    streamed, heard = ask()
    assert [text for text, _ in heard] == ["Good ", "day ", "to ", "you."]
    assert streamed == provider().complete(ASK)
    assert (streamed.total_tokens, streamed.finish_reason) == (16, "stop")
    assert model.requests[0]["stream"] is True
    assert model.requests[0]["stream_options"] == {"include_usage": True}
    assert not {"stream", "stream_options"} & model.requests[1].keys()


def test_pieces_are_passed_on_while_the_server_still_writes(
    model: ModelServer, provider: Callable[..., OpenAIProvider]
) -> None:
    model.play(Answer(pieces=["a", "b", "c"], pause_seconds=0.3))
    heard_at: list[float] = []
    provider().complete(ASK, on_text=lambda *_: heard_at.append(time.monotonic()))
    assert heard_at[-1] - heard_at[0] >= 0.5


def tool_call(index: int | None, **fields: Any) -> dict[str, Any]:
    call = {"function": {}, **fields}
    return call if index is None else {"index": index, **call}


OSLO = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
ROME = {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (
            [
                tool_call(0, id="a", type="function", function={"name": "f", "arguments": ""}),
                tool_call(0, function={"arguments": '{"x"'}),
                tool_call(1, id="b", type="function", function={"name": "g", "arguments": "{}"}),
                tool_call(0, function={"arguments": ": 1}"}),
            ],
            [OSLO, ROME],
        ),
        ([tool_call(0, **OSLO), tool_call(0, **ROME)], [OSLO, ROME]),
        ([tool_call(None, **OSLO), tool_call(None, **ROME)], [OSLO, ROME]),
        (
            [
                tool_call(
                    None, id="a", type="function", function={"name": "f", "arguments": '{"x"'}
                ),
                tool_call(None, function={"arguments": ": 1}"}),
            ],
            [OSLO],
        ),
        (
            [
                tool_call(0, id="a", type="function", function={"name": "f", "arguments": '{"x"'}),
                tool_call(0, id="a", type="function", function={"name": "f", "arguments": ": 1}"}),
            ],
            [OSLO],
        ),
    ],
    ids=["by index", "one index for all", "no index", "no index in pieces", "name repeated"],
)
def test_tool_calls_are_put_together(
    model: ModelServer, ask: Ask, calls: list[dict[str, Any]], expected: list[Any]
) -> None:
    model.play(Answer(pieces=[chunk(tool_calls=[call]) for call in calls]))
    completion, heard = ask()
    assert completion.tool_calls == expected
    assert (completion.text, heard) == ("", [])


def test_an_old_function_call_is_put_into_todays_form(model: ModelServer, ask: Ask) -> None:
    pieces = [
        chunk(function_call={"name": "f", "arguments": '{"x"'}),
        chunk(function_call={"arguments": ": 1}"}),
    ]
    model.play(Answer(pieces=pieces))
    completion, _ = ask()
    expected = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    assert completion.tool_calls == [expected]


def raw(*lines: str) -> Answer:
    return Answer(pieces=["\n".join(lines).encode()], ends=())


HI = json.dumps(chunk(content="Hi"))
HI_IN_LINES = json.dumps(chunk(content="Hi"), indent=1).split("\n")
THERE = json.dumps(
    {"choices": [{"index": 0, "delta": {"content": " there"}, "finish_reason": "stop"}]}
)


@pytest.mark.parametrize(
    "answer",
    [
        Answer("Hi there", ends=("reason", "done")),
        Answer("Hi there", ends=("reason",)),
        Answer("Hi there", ends=("done",)),
        Answer("Hi there", ends=("usage",)),
        raw(f"data:{HI}", f"data:{THERE}", "data:[DONE]"),
        raw(f"data: {HI}", f"data: {THERE}"),
        raw(f": wait\r\n\r\ndata: {HI}\r\n\r\ndata: {THERE}\r\n\r\ndata: [DONE]\r\n\r\n"),
        raw(f"\ufeffdata: {HI}\r\rid: 7\rretry: 5\rdata: {THERE}\r\r"),
        raw("", "", f"event: chunk\ndata: {HI}\n", f"event: chunk\ndata: {THERE}\n"),
        raw(*(f"data: {line}" for line in HI_IN_LINES), "", f"data: {THERE}"),
        Answer(pieces=[bytes([byte]) for byte in f"data: {HI}\n\ndata: {THERE}".encode()], ends=()),
        Answer(pieces=[chunk(role="assistant", content=""), "Hi", chunk(content=None), " there"]),
        Answer(pieces=[{"choices": []}, "Hi", {"choices": None}, {}, " there"]),
        Answer(pieces=[chunk(reasoning_content="hm"), chunk(reasoning="hm"), "Hi there"]),
        Answer(pieces=[chunk(content=[{"type": "text", "text": "Hi"}]), " there"]),
        Answer(pieces=[{"choices": [{"text": "Hi"}]}, {"choices": [{"text": " there"}]}]),
        Answer(
            pieces=[
                {"choices": [{"message": {"content": "Hi"}}]},
                {"choices": [{"message": {"content": "Hi there"}}]},
            ]
        ),
        Answer(pieces=["Hi there", {"choices": [{"message": {"content": "Hi there"}}]}]),
        Answer(pieces=["Hi", {"choices": [{"index": 1, "delta": {"content": "No"}}]}, " there"]),
        Answer("Hi there", headers={"Content-Type": "text/plain"}),
        Answer("Hi there", headers={"Content-Type": "application/json"}),
        Answer("Hi there", hang_up=True, ends=("reason",)),
        Answer(pieces=[f"data: {HI}\n\ndata: {THERE}\n\ndata: {{".encode()], ends=(), hang_up=True),
        Answer(pieces=["Hi there"], ends=("reason", "usage", "done"), usage=None),
    ],
)
def test_what_a_server_leaves_out_or_adds_does_not_matter(
    model: ModelServer, ask: Ask, answer: Answer
) -> None:
    model.play(answer)
    completion, heard = ask(model_max_retries=0)
    assert completion.text == "Hi there"
    assert "".join(text for text, _ in heard) == "Hi there"


def test_a_compressed_stream_is_read(model: ModelServer, ask: Ask) -> None:
    body = gzip.compress(f"data: {HI}\n\ndata: {THERE}\n\n".encode())
    model.play(Answer(pieces=[body], ends=(), headers={"Content-Encoding": "gzip"}))
    completion, _ = ask(model_max_retries=0)
    assert completion.text == "Hi there"


def test_a_text_that_is_cut_inside_of_a_character_arrives_whole(
    model: ModelServer, ask: Ask
) -> None:
    body = f"data: {json.dumps(chunk(content='好的👍'), ensure_ascii=False)}\n\ndata: [DONE]\n\n"
    model.play(Answer(pieces=[bytes([byte]) for byte in body.encode()], ends=()))
    assert ask(model_max_retries=0)[0].text == "好的👍"


def test_a_character_that_is_cut_into_its_two_halves_arrives_whole(
    model: ModelServer, ask: Ask
) -> None:
    model.play(Answer(pieces=["a\ud83d", "\ude00b", "\ud83d\ude00"]))
    completion, heard = ask(model_max_retries=0)
    assert completion.text == "".join(text for text, _ in heard) == "a😀b😀"


@pytest.mark.parametrize(
    "answer",
    [Answer("Whole.", streams=False), Answer("Whole.", streams=False, drip_seconds=0.3)],
    ids=["at once", "after blank lines"],
)
def test_a_server_that_ignores_the_wish_for_a_stream_has_answered(
    model: ModelServer, ask: Ask, answer: Answer
) -> None:
    model.play(answer)
    completion, heard = ask(model_max_retries=0)
    assert (completion.text, completion.total_tokens) == ("Whole.", 16)
    assert heard == [("Whole.", 0)]
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("usage", "total"),
    [
        ([{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}], 7),
        ([{"choices": [], "x_groq": {"usage": {"prompt_tokens": 3, "total_tokens": 9}}}], 9),
        ([{"choices": [], "usage": {"total_tokens": 0}}], None),
        ([{"choices": [], "usage": "many"}], None),
        ([], None),
    ],
)
def test_usage_is_read_wherever_it_stands(
    model: ModelServer, ask: Ask, usage: list[Any], total: int | None
) -> None:
    model.play(Answer(pieces=["Hi", *usage], ends=("reason", "done")))
    assert ask()[0].total_tokens == total


def test_of_many_reports_of_usage_the_last_one_counts(model: ModelServer, ask: Ask) -> None:
    pieces = [{**chunk(content="x"), "usage": {"total_tokens": count}} for count in (1, 2, 3)]
    model.play(Answer(pieces=pieces, ends=("reason", "done")))
    assert ask()[0].total_tokens == 3


def refuses(*names: str, body: str) -> Callable[[dict[str, Any]], Answer]:
    def reply(asked: dict[str, Any]) -> Answer:
        return (
            Answer(status=400, raw=body) if any(name in asked for name in names) else Answer("Ok.")
        )

    return reply


@pytest.mark.parametrize(
    ("names", "body", "requests"),
    [
        (["stream_options"], '{"error": "Unrecognized request argument: stream_options"}', 2),
        (["stream_options"], '{"detail": [{"loc": ["body", "stream_options"], "msg": "no"}]}', 2),
        (["stream_options"], '{"message": "unknown field include_usage"}', 2),
        (["stream"], '{"error": "stream is not supported for this model"}', 2),
        (["stream"], "", 2),
        (["stream"], '{"error": "Extra inputs are not permitted"}', 2),
        (["stream"], '{"error": "stream_options: unknown. stream: unknown"}', 3),
    ],
)
def test_a_server_that_refuses_the_stream_is_asked_in_a_simpler_way_from_then_on(
    model: ModelServer,
    provider: Callable[..., OpenAIProvider],
    names: list[str],
    body: str,
    requests: int,
) -> None:
    model.reply = refuses(*names, body=body)
    one = provider(model_max_retries=0)
    for _ in range(2):
        completion = one.complete(ASK, on_text=lambda *_: None)
        assert (completion.text, completion.retries) == ("Ok.", 0)
    assert len(model.requests) == requests + 1


@pytest.mark.parametrize("error", ["stream is not supported", {"message": "no streaming here"}])
def test_a_refusal_of_the_stream_may_come_with_status_200(
    model: ModelServer, ask: Ask, error: Any
) -> None:
    refused = Answer(raw=json.dumps({"error": error}))
    model.reply = lambda asked: refused if asked.get("stream") else Answer("Ok.")
    assert ask(model_max_retries=0)[0].text == "Ok."
    assert len(model.requests) == 2


def test_a_whole_answer_about_streams_is_no_refusal(model: ModelServer, ask: Ask) -> None:
    model.play(Answer("An error: the stream is dry.", streams=False))
    assert ask()[0].text == "An error: the stream is dry."
    assert len(model.requests) == 1


def test_a_refusal_for_another_reason_stays_the_error_and_is_not_remembered(
    model: ModelServer, provider: Callable[..., OpenAIProvider]
) -> None:
    too_long = Answer("the prompt is too long", 400)
    model.play(too_long, too_long, "Ok.")
    one = provider()
    with pytest.raises(ModelRejected, match="too long"):
        one.complete(ASK, on_text=lambda *_: None)
    one.complete(ASK, on_text=lambda *_: None)
    assert [bool(asked.get("stream")) for asked in model.requests] == [True, False, True]


def test_a_model_that_is_not_there_is_asked_for_once(model: ModelServer, ask: Ask) -> None:
    model.play(Answer("no such model", 404))
    with pytest.raises(ModelRejected, match="no such model"):
        ask()
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            Answer(pieces=["Hi", {"error": {"message": "overloaded", "code": 503}}]),
            ModelUnavailable,
            "overloaded",
        ),
        (
            Answer(pieces=["Hi", {"error": {"type": "rate_limit_error", "message": "slow"}}]),
            ModelRateLimited,
            "slow",
        ),
        (
            Answer(pieces=["Hi", {"object": "error", "message": "sk-test-key broke"}]),
            ModelUnavailable,
            r"\[masked\] broke",
        ),
        (
            Answer(pieces=["Hi", b'event: error\ndata: {"message": "lost"}\n\n']),
            ModelUnavailable,
            "lost",
        ),
        (Answer(pieces=["Hi", b"event: error\ndata: lost\n\n"]), ModelUnavailable, "lost"),
        (
            Answer(pieces=[{"choices": [{"delta": {}, "error": {"message": "x", "code": 400}}]}]),
            ModelRejected,
            "x",
        ),
        (Answer(pieces=["Hi", " the"], ends=()), ModelUnavailable, "before the answer's end"),
        (Answer(pieces=["Hi"], ends=(), hang_up=True), ModelUnavailable, "No answer"),
        (
            Answer(pieces=["Hi", b'data: {"cho'], ends=()),
            ModelUnavailable,
            "before the answer's end",
        ),
        (Answer(pieces=["Hi", b"data: {nonsense\n\n"]), ModelAnswerInvalid, "not JSON"),
        (Answer(pieces=["Hi", b"data: [1]\n\n"]), ModelAnswerInvalid, "not a JSON object"),
        (Answer(pieces=["Hi", b"data: \xff\n\n"]), ModelAnswerInvalid, "not JSON"),
        (Answer(pieces=[]), ModelAnswerInvalid, "nothing"),
        (Answer(pieces=[], ends=()), ModelAnswerInvalid, "empty body"),
        (Answer(pieces=[b": wait\n\n"], ends=()), ModelUnavailable, "before the answer's end"),
        (
            Answer(pieces=[chunk(reasoning_content="hm")]),
            ModelAnswerInvalid,
            "only its reasoning",
        ),
        (
            Answer(pieces=[], choice={"finish_reason": "length"}),
            ModelAnswerInvalid,
            "cut off before",
        ),
        (Answer(pieces=[b"<html>Log in</html>"], ends=()), ModelAnswerInvalid, "a web page"),
        (Answer(pieces=[b"data"], ends=()), ModelUnavailable, "before the answer's end"),
        (Answer("busy", 503), ModelUnavailable, "busy"),
    ],
)
def test_each_failure_of_a_stream_has_its_error(
    model: ModelServer, ask: Ask, answer: Answer, kind: type[ModelError], said: str
) -> None:
    model.play(answer)
    with pytest.raises(kind, match=said):
        ask(model_max_retries=0)


def test_a_refusal_comes_through(model: ModelServer, ask: Ask) -> None:
    model.play(Answer(pieces=[chunk(refusal="I cannot "), chunk(refusal="do that.")]))
    completion, heard = ask()
    assert "".join(text for text, _ in heard) == "I cannot do that."
    assert completion.refusal == "I cannot do that."
    assert completion.text == "I cannot do that."


def test_what_a_repeat_sends_is_told_apart_from_the_first_try(model: ModelServer, ask: Ask) -> None:
    model.play(Answer(pieces=["Wrong", " turn"], ends=(), hang_up=True), "Right.")
    completion, heard = ask()
    assert (completion.text, completion.retries) == ("Right.", 1)
    assert heard == [("Wrong", 0), (" turn", 0), ("Right.", 1)]


def test_a_server_that_never_says_where_a_stream_ends_is_asked_for_a_whole_answer(
    model: ModelServer, ask: Ask
) -> None:
    model.reply = lambda asked: Answer("The answer.", ends=())
    completion, heard = ask(model_max_retries=1)
    assert completion.text == "The answer."
    assert heard[-1] == ("The answer.", 1)


@pytest.mark.parametrize(
    "pieces",
    [
        ["x" * 100_000] * 30,
        [b"data: " + b"x" * 3_000_000],
        [b"data: xxxxxxxxx\n" * 500_000],
        [chunk(tool_calls=[{"index": 0, "function": {"arguments": "x" * 100_000}}])] * 30,
        [chunk(tool_calls=[{"index": number}]) for number in range(30_000)],
    ],
    ids=["many texts", "a huge line", "an endless event", "arguments", "many calls"],
)
def test_a_stream_that_never_ends_is_not_read_further_than_the_limit(
    model: ModelServer, ask: Ask, pieces: list[Any]
) -> None:
    model.play(Answer(pieces=pieces))
    with pytest.raises(ModelAnswerInvalid, match="MAX_RESULT_BYTES"):
        ask(max_result_bytes=1024)


def test_a_long_stream_of_short_texts_is_within_the_limit(model: ModelServer, ask: Ask) -> None:
    """What counts is the text, not the JSON around each word of it."""
    model.play(Answer(pieces=["word "] * 20_000))
    completion, _ = ask(max_result_bytes=100_000)
    assert len(completion.text) == 100_000


def test_a_stop_hangs_up_in_the_middle_of_a_stream(
    model: ModelServer, provider: Callable[..., OpenAIProvider]
) -> None:
    one = provider()
    one.complete(ASK)
    model.play(Answer(pieces=["word "] * 600, pause_seconds=0.1))
    stop = StopSignal()
    began = time.monotonic()
    with pytest.raises(Stopped):
        one.complete(ASK, stop_signal=stop, on_text=lambda *_: request_soon(stop))
    assert time.monotonic() - began < within(10)
    deadline = time.monotonic() + 20
    while not model.aborted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def request_soon(stop: StopSignal) -> None:
    threading.Timer(0.05, stop.request).start()


def test_connections_are_used_again_after_a_stream(
    model: ModelServer, provider: Callable[..., OpenAIProvider]
) -> None:
    one = provider()
    for _ in range(3):
        one.complete(ASK, on_text=lambda *_: None)
    ports = {headers["port"] for headers in model.headers}
    assert len(ports) == 1


def test_a_connection_that_stays_open_after_the_end_holds_nobody_up(
    model: ModelServer, ask: Ask
) -> None:
    stays_open = chunk(content="late")
    model.play(Answer(pieces=["Hi", b"data: [DONE]\n\n", *[stays_open] * 100], pause_seconds=0.2))
    began = time.monotonic()
    assert ask()[0].text == "Hi"
    assert time.monotonic() - began < within(10)
