"""The model provider: gets chat completions from servers with OpenAI's API (Ollama, vLLM, ...).

A child process makes one `OpenAIProvider`; flows call it through `context.complete`. It decides on
repeats and timeouts. `request.py` makes the request, `openai_client.py` sends it, and `answers.py`
or `stream.py` reads the answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from app.providers.answers import read_answer
from app.providers.base import (
    Completion,
    ModelError,
    ModelNotConfigured,
    ModelRateLimited,
    ModelTimeout,
    ModelUnavailable,
    OnText,
    Stop,
    Stopped,
)
from app.providers.event_loop import EventLoopThread
from app.providers.faults import refused
from app.providers.reply import Reply
from app.providers.request import Request, Way, new_request, simpler_way
from app.providers.stream import StreamedAnswer, StreamEndedEarly
from app.providers.waits import named_wait
from app.settings import Settings

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
"""The longest pause before a repeat if the server names none. The pause doubles up to this."""

ENVELOPE_BYTES = 1024 * 1024
"""How much larger than MAX_RESULT_BYTES an answer may be, for the JSON around its text."""

SHORTEST_SECRET = 8
"""Keys with fewer characters are not masked: that would hide parts of ordinary words."""

_REPEATED = (ModelRateLimited, ModelUnavailable)
"""Errors after which the provider repeats a call. It does not for a useless answer, which was paid
for: only a retry that the user has set (`config.retries`) asks again."""

_MAX_REMEMBERED = 1000
"""Models whose way of answering is remembered. A request may name any model."""


class OpenAIProvider:
    """Calls from any number of threads share one event loop, one client and its connections.

    These start with the first call, so that a provider may be made before a fork, and `openai` is
    loaded only if it is used. The SDK's own repeats and timeouts are off, because MODEL_TIMEOUT
    bounds all tries together.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._loop = EventLoopThread()
        self._client: Any = None
        self._client_generation = 0
        self._ways: dict[str, Way] = {}
        """By model: how to ask for a stream, if its server does not know the usual way."""
        key = settings.openai_api_key or ""
        self._secret = key if len(key) >= SHORTEST_SECRET else None
        ModelError.longest_wait_seconds = settings.max_retry_after

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        stop_signal: Stop | None = None,
        on_text: OnText | None = None,
        **options: Any,
    ) -> Completion:
        """See `ModelProvider`. The option `timeout`, in seconds, may shorten MODEL_TIMEOUT."""
        if stop_signal and stop_signal.requested:
            raise Stopped
        asked_model = model or self._settings.openai_model_name
        request = new_request(messages, asked_model, options, self._settings.model_timeout)
        _sdk()  # imported in this thread: the import would block the event loop for all other calls
        try:
            future = self._loop.submit(self._complete(request, on_text))
        except (RuntimeError, OSError) as error:
            raise ModelUnavailable(
                f"The model cannot be called now, for lack of threads or open files: {error}."
            ) from error
        unsubscribe = stop_signal.subscribe(partial(_cancel, future)) if stop_signal else None
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Stopped from None
        finally:
            if unsubscribe:
                unsubscribe()

    def close(self) -> None:
        """Closes the connections and ends the event loop. No call may be running."""
        self._loop.close(self._close_client())

    async def _close_client(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _complete(self, request: Request, on_text: OnText | None) -> Completion:
        """Sends the request, and repeats it while that may help and there is time."""
        deadline = time.monotonic() + request.seconds
        way = self._ways.get(request.model, Way.STREAM_WITH_USAGE) if on_text else Way.WHOLE
        failed: ModelError | None = None
        retries = 0
        try:
            async with asyncio.timeout(request.seconds):
                while True:
                    try:
                        take = partial(_pass_on, on_text, retries)
                        completion = await self._answer(request, way, take)
                        return replace(completion, retries=retries)
                    except ModelError as error:
                        failed = error
                        pause = self._pause(error, retries, deadline - time.monotonic())
                        if pause is None:
                            raise
                        if isinstance(error, StreamEndedEarly):
                            way = Way.WHOLE  # perhaps this server never says where a stream ends
                        await asyncio.sleep(pause)
                        retries += 1
        except TimeoutError:
            before = f" Before that: {failed}" if failed else ""
            # The last error of a repeat explains more than the timeout, so the message has both.
            failed = ModelTimeout(
                f"The model did not answer within {request.seconds:g} s (MODEL_TIMEOUT).{before}"
            )
            raise failed from None
        finally:
            if failed:
                failed.retries = retries

    async def _answer(
        self, request: Request, way: Way, on_text: Callable[[str], None]
    ) -> Completion:
        """The server's answer. If it does not know this way of asking, it is asked in a simpler
        one, which is remembered if it works.
        """
        tried, answer = way, await self._send(request, way, on_text)
        while isinstance(answer, Reply) and (simpler := simpler_way(tried, answer)):
            tried, answer = simpler, await self._send(request, simpler, on_text)
        if isinstance(answer, Reply):
            if not answer.is_success:
                raise refused(answer)
            answer = read_answer(answer, request.model)
            on_text(answer.text)
        if tried is not way:
            self._remember(request.model, tried)
        return answer

    async def _send(
        self, request: Request, way: Way, on_text: Callable[[str], None]
    ) -> Completion | Reply:
        """Sends the request once. Returns the answer in a stream; otherwise the reply, unread."""
        stream = None
        if way is not Way.WHOLE:
            stream = StreamedAnswer(on_text, self._max_bytes, self._reply_of)
        status, headers, body = await _sdk().exchange(
            self._current_client(), request.body(way), request.options, self._secret, stream
        )
        if stream and stream.is_stream:
            return stream.completion(request.model)
        return self._reply_of(status, headers, (stream and stream.whole) or body)

    def _remember(self, model: str, way: Way) -> None:
        if len(self._ways) >= _MAX_REMEMBERED:
            self._ways.clear()
        self._ways[model] = way

    def _reply_of(self, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        wait = named_wait(headers, time.time(), self._settings.max_retry_after)
        return Reply(body, status, headers, wait, self._secret)

    @property
    def _max_bytes(self) -> int:
        return self._settings.max_result_bytes + ENVELOPE_BYTES

    def _pause(self, error: ModelError, retries: int, left_seconds: float) -> float | None:
        """Seconds until the next repeat: as the server asks, else growing. None: no repeat."""
        may_pass = isinstance(error, _REPEATED) and error.transient
        if not may_pass or retries >= self._settings.model_max_retries:
            return None
        own = min(FIRST_PAUSE_SECONDS * 2**retries, LONGEST_PAUSE_SECONDS)
        # At random, so that calls which failed together are not repeated together.
        pause = error.retry_after_seconds or own * random.uniform(0.75, 1.0)  # noqa: S311  no secret
        return pause if pause < left_seconds else None

    def _current_client(self) -> Any:
        """The client of the present event loop, made when needed. For the loop's thread only."""
        if self._client is None or self._client_generation != self._loop.generation:
            self._client, self._client_generation = self._new_client(), self._loop.generation
        return self._client

    def _new_client(self) -> Any:
        settings = self._settings
        if not settings.openai_api_key and not settings.openai_base_url:
            raise ModelNotConfigured(
                "No model is configured. Set OPENAI_API_KEY, or OPENAI_BASE_URL for a local server."
            )
        return _sdk().new_client(settings.openai_api_key, settings.openai_base_url, self._max_bytes)


def _sdk() -> Any:
    # Not imported at the top: it takes half a second, and many processes never call a model.
    from app.providers import openai_client

    return openai_client


def _pass_on(on_text: OnText | None, retries: int, text: str) -> None:
    if on_text and text:
        on_text(text, retries)


def _cancel(future: concurrent.futures.Future[Completion]) -> None:
    future.cancel()
