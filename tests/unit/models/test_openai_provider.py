"""Model calls, against a stand-in for the vendor that speaks real HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from app.models.base import (
    ModelAnswerInvalid,
    ModelAuthenticationError,
    ModelError,
    ModelRateLimited,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    Stopped,
)
from app.models.openai_provider import OpenAIProvider
from app.runtime.stop import StopSignal
from app.settings import Settings
from tests.support.model_server import Answer, ModelServer

Provide = Callable[..., OpenAIProvider]

ASK = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def running() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def server(running: ModelServer) -> ModelServer:
    running.answers.clear()
    running.requests.clear()
    running.headers.clear()
    running.aborted = 0
    return running


@pytest.fixture
def provider(server: ModelServer) -> Iterator[Callable[..., OpenAIProvider]]:
    made: list[OpenAIProvider] = []

    def make(**settings: object) -> OpenAIProvider:
        plain = {"openai_base_url": server.url, "openai_api_key": "sk-test-key", "model_timeout": 5.0}
        made.append(OpenAIProvider(Settings(**{**plain, **settings})))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_an_answer_comes_with_what_the_server_reported(server: ModelServer, provider: Provide) -> None:
    server.play("Hi!")
    completion = provider().complete(ASK, model="tiny", temperature=0.5, max_tokens=7)
    assert (completion.text, completion.model) == ("Hi!", "tiny-served")
    assert (completion.input_tokens, completion.output_tokens, completion.total_tokens) == (11, 5, 16)
    assert server.requests == [{"messages": ASK, "model": "tiny", "temperature": 0.5, "max_tokens": 7}]
    assert server.headers[0]["authorization"] == "bearer sk-test-key"


def test_without_a_model_the_services_own_is_asked(server: ModelServer, provider: Provide) -> None:
    provider(openai_model_name="doubao-pro-32k").complete(ASK)
    assert server.requests[0]["model"] == "doubao-pro-32k"


def test_too_many_requests_is_tried_again_when_the_server_says(server: ModelServer, provider: Provide) -> None:
    server.play(Answer("slow down", 429, {"Retry-After": "1"}), "Now.")
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
        (Answer(delay_seconds=3), ModelTimeout, 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_failures_are_told_apart(
    server: ModelServer, provider: Provide, answer: Answer, kind: type[ModelError], tries: int
) -> None:
    server.play(answer)
    with pytest.raises(kind) as raised:
        provider(model_max_retries=0, model_timeout=0.5).complete(ASK)
    assert len(server.requests) == tries
    assert "sk-test-key" not in str(raised.value)
    if answer.status != 200:
        assert answer.text in str(raised.value)
    if kind is ModelRateLimited:
        assert raised.value.retry_after_seconds == 7


def test_a_server_that_is_not_there_is_unavailable(server: ModelServer, provider: Provide) -> None:
    with pytest.raises(ModelUnavailable):
        provider(openai_base_url="http://127.0.0.1:1/v1", model_max_retries=0).complete(ASK)


def test_without_key_and_address_the_message_names_the_setting() -> None:
    with pytest.raises(ModelAuthenticationError, match="OPENAI_API_KEY"):
        OpenAIProvider(Settings()).complete(ASK)


def test_a_stop_closes_the_connection_at_once(server: ModelServer, provider: Provide) -> None:
    one = provider()
    one.complete(ASK)  # what is loaded once is loaded
    server.play(Answer(delay_seconds=30))
    stop = StopSignal()
    threading.Timer(0.2, stop.request).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        one.complete(ASK, stop_signal=stop)
    assert time.monotonic() - began < 1.5
    deadline = time.monotonic() + 2
    while not server.aborted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_call_after_the_stop_is_not_made(server: ModelServer, provider: Provide) -> None:
    stop = StopSignal()
    stop.request()
    with pytest.raises(Stopped):
        provider().complete(ASK, stop_signal=stop)
    assert server.requests == []


def test_calls_from_many_threads_wait_side_by_side(server: ModelServer, provider: Provide) -> None:
    one = provider()
    one.complete(ASK)
    server.play(*[Answer(delay_seconds=0.5)] * 99)
    threads = [threading.Thread(target=one.complete, args=(ASK,)) for _ in range(99)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 3


def test_options_go_into_the_body_but_those_that_are_about_the_request(server: ModelServer, provider: Provide) -> None:
    server.play("Hi!", Answer("too late", delay_seconds=5))
    provide = provider(model_max_retries=0)
    provide.complete(ASK, temperature=0.5, extra_body={"seed": 7}, extra_headers={"X-Trace": "abc"})
    assert {"temperature": 0.5, "seed": 7}.items() <= server.requests[0].items()
    assert not {"extra_body", "extra_headers"} & server.requests[0].keys()
    assert server.headers[0]["x-trace"] == "abc"
    with pytest.raises(ModelTimeout):
        provide.complete(ASK, timeout=0.2)
