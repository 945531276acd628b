"""Model calls over real HTTP, to a stand-in for the vendor."""

from __future__ import annotations

import gzip
import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from app.providers.base import (
    ModelAnswerInvalid,
    ModelAuthenticationError,
    ModelError,
    ModelNotConfigured,
    ModelRateLimited,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    Stopped,
)
from app.providers.openai_provider import OpenAIProvider
from app.runtime.stop import StopSignal
from app.settings import Settings
from tests.support.model_server import Answer, ModelServer
from tests.support.pace import within

Provide = Callable[..., OpenAIProvider]

ASK = [{"role": "user", "content": "Hello"}]


def test_an_answer_comes_with_what_the_server_reported(
    model: ModelServer, provider: Provide
) -> None:
    model.play("Hi!")
    completion = provider().complete(ASK, model="tiny", temperature=0.5, max_tokens=7)
    assert (completion.text, completion.model) == ("Hi!", "tiny-served")
    assert (completion.input_tokens, completion.output_tokens, completion.total_tokens) == (
        11,
        5,
        16,
    )
    assert model.requests == [
        {"messages": ASK, "model": "tiny", "temperature": 0.5, "max_tokens": 7}
    ]
    assert model.headers[0]["authorization"] == "bearer sk-test-key"


def test_without_a_model_the_services_own_is_asked(model: ModelServer, provider: Provide) -> None:
    provider(openai_model_name="doubao-pro-32k").complete(ASK)
    assert model.requests[0]["model"] == "doubao-pro-32k"


def test_too_many_requests_is_tried_again_when_the_server_says(
    model: ModelServer, provider: Provide
) -> None:
    model.play(Answer("slow down", 429, {"Retry-After": "1"}), "Now.")
    began = time.monotonic()
    assert provider().complete(ASK).text == "Now."
    assert time.monotonic() - began >= 0.9


@pytest.mark.parametrize(
    ("answer", "kind", "tries"),
    [
        (Answer("slow down", 429, {"Retry-After": "7"}), ModelRateLimited, 1),
        (Answer("overloaded", 503), ModelUnavailable, 1),
        (Answer("broken", 500), ModelUnavailable, 1),
        (Answer("who are you", 401), ModelAuthenticationError, 1),
        (Answer("not for you", 403), ModelAuthenticationError, 1),
        (Answer("no such model", 404), ModelRejected, 1),
        (Answer("too long", 400), ModelRejected, 1),
        (Answer(raw='{"choices": []}'), ModelAnswerInvalid, 1),
        (Answer(delay_seconds=30), ModelTimeout, 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_failure_has_its_own_error(
    model: ModelServer, provider: Provide, answer: Answer, kind: type[ModelError], tries: int
) -> None:
    model.play(answer)
    with pytest.raises(kind) as raised:
        provider(model_max_retries=0, model_timeout=3.0 if answer.delay_seconds else 60.0).complete(
            ASK
        )
    assert len(model.requests) == tries
    assert "sk-test-key" not in str(raised.value)
    if answer.status != 200:
        assert answer.text in str(raised.value)
    if kind is ModelRateLimited:
        assert raised.value.retry_after_seconds == 7


def test_a_server_that_is_not_there_is_unavailable(model: ModelServer, provider: Provide) -> None:
    with pytest.raises(ModelUnavailable):
        provider(openai_base_url="http://127.0.0.1:1/v1", model_max_retries=0).complete(ASK)


def test_without_key_and_address_the_message_names_the_setting() -> None:
    with pytest.raises(ModelNotConfigured, match="OPENAI_API_KEY"):
        OpenAIProvider(Settings()).complete(ASK)


def test_a_stop_closes_the_connection_at_once(model: ModelServer, provider: Provide) -> None:
    one = provider()
    one.complete(ASK)  # so that nothing is loaded within the measurement
    model.play(Answer(delay_seconds=30))
    stop = StopSignal()
    threading.Timer(0.2, stop.request).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        one.complete(ASK, stop_signal=stop)
    assert time.monotonic() - began < within(10)
    deadline = time.monotonic() + 20
    while not model.aborted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_call_after_the_stop_is_not_made(model: ModelServer, provider: Provide) -> None:
    stop = StopSignal()
    stop.request()
    with pytest.raises(Stopped):
        provider().complete(ASK, stop_signal=stop)
    assert model.requests == []


def test_calls_from_many_threads_wait_side_by_side(model: ModelServer, provider: Provide) -> None:
    one = provider()
    one.complete(ASK)
    model.play(*[Answer(delay_seconds=0.5)] * 99)
    threads = [threading.Thread(target=one.complete, args=(ASK,)) for _ in range(99)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < within(20)


def test_options_go_into_the_body_but_those_that_are_about_the_request(
    model: ModelServer, provider: Provide
) -> None:
    model.play("Hi!", Answer("too late", delay_seconds=5))
    provide = provider(model_max_retries=0)
    provide.complete(
        ASK, temperature=0.5, stop=["x"], extra_body={"seed": 7}, extra_headers={"X-Trace": "abc"}
    )
    assert {"temperature": 0.5, "stop": ["x"], "seed": 7}.items() <= model.requests[0].items()
    assert not {"extra_body", "extra_headers", "timeout"} & model.requests[0].keys()
    assert model.headers[0]["x-trace"] == "abc"
    with pytest.raises(ModelTimeout):
        provide.complete(ASK, timeout=0.2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": float("nan")}, "not JSON"),
        ({"tools": {1, 2}}, "not JSON"),
        ({"user": "\ud800"}, "lone surrogate"),
        ({"extra_body": [1]}, "extra_body must be a mapping"),
        ({"stream": True}, "cannot set `stream`"),
        ({"extra_body": {"stream": True}}, "cannot set `stream`"),
        ({"timeout": "5"}, "timeout must be"),
        ({"timeout": float("inf")}, "timeout must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"extra_headers": {"X": "a\r\nb: c"}}, "cannot be sent"),
        ({"extra_headers": 5}, "cannot be sent"),
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_rejected_before_the_model_is_called(
    model: ModelServer, provider: Provide, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ModelRejected, match=said):
        provider().complete(ASK, **options)
    assert model.requests == []


@pytest.mark.parametrize(
    "answer",
    [Answer(delay_seconds=30), Answer(drip_seconds=30), Answer(status=503, drip_seconds=30)],
    ids=["silent", "dripping", "dripping error"],
)
def test_the_time_limit_holds_for_the_whole_call(
    model: ModelServer, provider: Provide, answer: Answer
) -> None:
    one = provider(model_timeout=3.0, model_max_retries=3)
    model.play(answer)
    began = time.monotonic()
    with pytest.raises(ModelTimeout, match=r"3 s \(MODEL_TIMEOUT\)"):
        one.complete(ASK, timeout=60)
    assert 3 <= time.monotonic() - began < within(25)
    assert len(model.requests) == 1


def test_the_time_limit_holds_for_all_repeats_together(
    model: ModelServer, provider: Provide
) -> None:
    model.play(Answer("busy", 503, {"Retry-After": "0.2"}), Answer(delay_seconds=30))
    with pytest.raises(ModelTimeout, match=r"Before that: .*503: busy") as raised:
        provider(model_timeout=6.0).complete(ASK)
    assert raised.value.retries == 1


def test_a_body_that_comes_slowly_but_in_time_is_an_answer(
    model: ModelServer, provider: Provide
) -> None:
    model.play(Answer("At last.", drip_seconds=0.5))
    assert provider(model_timeout=30.0).complete(ASK).text == "At last."


@pytest.mark.parametrize("named", ["100", "4000", "inf", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_that_does_not_fit_into_the_call_is_passed_on_to_the_flow(
    model: ModelServer, provider: Provide, named: str
) -> None:
    model.default = Answer("later", 429, {"Retry-After": named})
    try:
        with pytest.raises(ModelRateLimited) as raised:
            provider(model_timeout=20.0, model_max_retries=1).complete(ASK)
    finally:
        model.default = Answer()
    expected = (1, 100.0) if named == "100" else (2, None)  # not usable, so our own backoff decides
    assert (len(model.requests), raised.value.retry_after_seconds) == expected


def test_the_bound_of_waits_is_a_setting(model: ModelServer, provider: Provide) -> None:
    model.play(Answer("later", 429, {"Retry-After": "7"}))
    with pytest.raises(ModelRateLimited) as raised:
        provider(max_retry_after=5.0, model_max_retries=0).complete(ASK)
    assert raised.value.retry_after_seconds is None
    assert ModelRateLimited("x", 7).retry_after_seconds is None
    provider()
    assert ModelRateLimited("x", 7).retry_after_seconds == 7


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (Answer("busy", 500), 3),
        (Answer("busy", 408), 3),
        (Answer("busy", 429, {"Retry-After-Ms": "10"}), 3),
        (Answer(raw='{"error": {"code": 429, "message": "busy"}}'), 3),
        (Answer(hang_up=True), 3),
        (Answer("busy", 500, {"X-Should-Retry": "false"}), 1),
        (Answer("wrong", 400), 1),
        (Answer(raw='{"choices": null}'), 1),
        (Answer("", choice={"finish_reason": "length"}), 1),
    ],
)
def test_transient_errors_are_repeated_unless_the_answer_was_paid_for(
    model: ModelServer, provider: Provide, answer: Answer, asked: int
) -> None:
    model.play(*[answer] * 3)
    with pytest.raises(ModelError) as raised:
        provider(model_timeout=30.0, model_max_retries=2).complete(ASK)
    assert (len(model.requests), raised.value.retries) == (asked, asked - 1)


def test_an_answer_after_an_error_counts_the_repeats(model: ModelServer, provider: Provide) -> None:
    model.play(Answer("busy", 503), Answer(raw='{"error": "busy"}'), "Now.")
    completion = provider(model_timeout=30.0).complete(ASK)
    assert (completion.text, completion.retries) == ("Now.", 2)


def _compressed(body: str) -> dict[str, object]:
    return {"raw": gzip.compress(body.encode()), "headers": {"Content-Encoding": "gzip"}}


def test_compressed_answers_and_errors_are_read(model: ModelServer, provider: Provide) -> None:
    one = provider(model_max_retries=0)
    model.play(Answer(**_compressed('{"choices": [{"message": {"content": "Hi!"}}]}')))  # type: ignore[arg-type]
    assert one.complete(ASK).text == "Hi!"
    model.play(Answer(status=400, **_compressed('{"detail": "wrong"}')))  # type: ignore[arg-type]
    with pytest.raises(ModelRejected, match="400: wrong"):
        one.complete(ASK)


@pytest.mark.parametrize(
    "answer",
    [
        Answer("x" * 3_000_000),
        Answer(**_compressed(" " * 50_000_000)),  # type: ignore[arg-type]
    ],
    ids=["large", "compressed"],
)
def test_an_answer_that_never_ends_is_not_read_further_than_the_limit(
    model: ModelServer, provider: Provide, answer: Answer
) -> None:
    model.play(answer)
    with pytest.raises(ModelAnswerInvalid, match="MAX_RESULT_BYTES") as raised:
        provider(max_result_bytes=1024, model_timeout=30.0).complete(ASK)
    assert not raised.value.transient


def test_of_a_large_error_the_beginning_is_read(model: ModelServer, provider: Provide) -> None:
    model.play(
        Answer(status=400, raw='{"error": {"message": "too long", "prompt": "' + "x" * 5_000_000)
    )
    with pytest.raises(ModelRejected, match=r"400: too long$"):
        provider().complete(ASK)


@pytest.mark.parametrize(
    "answer", [Answer(raw=b"x", headers={"Content-Encoding": "gzip"}), Answer(raw="", status=204)]
)
def test_an_answer_that_cannot_be_read_is_invalid(
    model: ModelServer, provider: Provide, answer: Answer
) -> None:
    model.play(answer)
    with pytest.raises(ModelAnswerInvalid):
        provider().complete(ASK)


def test_a_redirect_is_not_followed(model: ModelServer, provider: Provide) -> None:
    model.play(
        Answer(status=307, headers={"Location": f"{model.url}/elsewhere"}), "From elsewhere."
    )
    with pytest.raises(
        ModelRejected, match=r"307, a redirect to .*/elsewhere\. Check OPENAI_BASE_URL"
    ):
        provider().complete(ASK)
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["nothing", "another protocol", "half a head", "a huge header", "a wrong chunk"],
)
def test_what_is_not_http_is_unavailable(provider: Provide, sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(sent)

        threading.Thread(target=serve, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with pytest.raises(ModelUnavailable, match="No answer from the model's server") as raised:
            provider(openai_base_url=address, model_max_retries=0).complete(ASK)
        assert len(str(raised.value)) < 600


def test_a_key_that_the_server_repeats_is_masked_whatever_it_looks_like(
    model: ModelServer, provider: Provide
) -> None:
    model.play(Answer("0f8fad5b-d9cb-469f-a165 is no key", 401))
    with pytest.raises(ModelAuthenticationError, match=r"401: \[masked\] is no key"):
        provider(openai_api_key="0f8fad5b-d9cb-469f-a165").complete(ASK)


def test_the_loop_starts_once_also_when_many_call_at_once(
    model: ModelServer, provider: Provide
) -> None:
    one = provider()
    threads = [threading.Thread(target=one.complete, args=(ASK,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(model.requests) == 20
    assert one._loop.generation == 1


def test_a_thread_that_cannot_be_started_fails_that_call_alone(
    model: ModelServer, provider: Provide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one = provider()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(ModelUnavailable, match="can't start new thread") as raised:
                one.complete(ASK)
            assert raised.value.transient
    assert one.complete(ASK).text == "An answer."


def test_a_thread_that_a_call_itself_needs_fails_that_call_alone(
    model: ModelServer, provider: Provide, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = provider(openai_base_url=model.url.replace("127.0.0.1", "localhost"), model_max_retries=0)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name != "models":  # such as threads that resolve host names
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ModelUnavailable, match="can't start new thread"):
            one.complete(ASK)
    assert one.complete(ASK).text == "An answer."


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_meanwhile_has_a_loop_of_its_own(
    model: ModelServer, provider: Provide
) -> None:
    one = provider()
    one.complete(ASK)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, one.complete(ASK).text.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        assert said.read() == "An answer."
    os.waitpid(child, 0)
    assert one.complete(ASK).text == "An answer."
