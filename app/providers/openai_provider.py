"""The model provider: gets chat completions from servers with OpenAI's API (Ollama, vLLM, ...).

A child process makes one `OpenAIProvider`; flows call it through `context.complete`. It decides on
repeats and timeouts. `openai_client.py` sends each request, `answers.py` reads the answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from app.providers.answers import read_answer
from app.providers.base import (
    Completion,
    ModelError,
    ModelNotConfigured,
    ModelRateLimited,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    Stop,
    Stopped,
)
from app.providers.event_loop import EventLoopThread
from app.providers.faults import refused
from app.providers.reply import Reply
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

_REQUEST_OPTIONS = {"extra_headers": "headers", "extra_query": "params"}
"""Options of the HTTP request, which are not in its body, and their names in the SDK's `post`."""


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
        key = settings.openai_api_key or ""
        self._secret = key if len(key) >= SHORTEST_SECRET else None
        ModelError.longest_wait_seconds = settings.max_retry_after

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        stop_signal: Stop | None = None,
        **options: Any,
    ) -> Completion:
        """See `ModelProvider`. The option `timeout`, in seconds, may shorten MODEL_TIMEOUT."""
        if stop_signal and stop_signal.requested:
            raise Stopped
        requested_model = model or self._settings.openai_model_name
        seconds = _time_limit(options.pop("timeout", None), self._settings.model_timeout)
        request = {
            _REQUEST_OPTIONS[name]: options.pop(name)
            for name in _REQUEST_OPTIONS
            if name in options
        }
        body = _body(messages, requested_model, options)
        _sdk()  # imported in this thread: the import would block the event loop for all other calls
        try:
            future = self._loop.submit(self._complete(body, request, requested_model, seconds))
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

    async def _complete(
        self, body: bytes, request: dict[str, Any], model: str, seconds: float
    ) -> Completion:
        """Sends the request, and repeats it while that may help and there is time."""
        deadline = time.monotonic() + seconds
        failed: ModelError | None = None
        retries = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        completion = read_answer(await self._reply(body, request), model)
                        return replace(completion, retries=retries)
                    except ModelError as error:
                        failed = error
                        pause = self._pause(error, retries, deadline - time.monotonic())
                        if pause is None:
                            raise
                        await asyncio.sleep(pause)
                        retries += 1
        except TimeoutError:
            before = f" Before that: {failed}" if failed else ""
            # The last error of a repeat explains more than the timeout, so the message has both.
            failed = ModelTimeout(
                f"The model did not answer within {seconds:g} s (MODEL_TIMEOUT).{before}"
            )
            raise failed from None
        finally:
            if failed:
                failed.retries = retries

    def _pause(self, error: ModelError, retries: int, left_seconds: float) -> float | None:
        """Seconds until the next repeat: as the server asks, else growing. None: no repeat."""
        may_pass = isinstance(error, _REPEATED) and error.transient
        if not may_pass or retries >= self._settings.model_max_retries:
            return None
        own = min(FIRST_PAUSE_SECONDS * 2**retries, LONGEST_PAUSE_SECONDS)
        # At random, so that calls which failed together are not repeated together.
        pause = error.retry_after_seconds or own * random.uniform(0.75, 1.0)  # noqa: S311  no secret
        return pause if pause < left_seconds else None

    async def _reply(self, body: bytes, request: dict[str, Any]) -> Reply:
        """One request and its reply. Raises a `ModelError` unless its status is a success."""
        status, headers, content = await _sdk().exchange(
            self._current_client(), body, request, self._secret
        )
        wait = named_wait(headers, time.time(), self._settings.max_retry_after)
        reply = Reply(content, status, headers, wait, self._secret)
        if not 200 <= status < 300:
            raise refused(reply)
        return reply

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
        limit = settings.max_result_bytes + ENVELOPE_BYTES
        return _sdk().new_client(settings.openai_api_key, settings.openai_base_url, limit)


def _sdk() -> Any:
    # Not imported at the top: it takes half a second, and many processes never call a model.
    from app.providers import openai_client

    return openai_client


def _body(messages: Sequence[Mapping[str, Any]], model: str, options: dict[str, Any]) -> bytes:
    """The request as JSON. Raises `ModelRejected` for what JSON cannot hold."""
    extra = options.pop("extra_body", None) or {}
    if not isinstance(extra, Mapping):
        raise ModelRejected("The model was not called: extra_body must be a mapping.")
    body = {"messages": list(messages), "model": model, **options, **extra}
    if body.get("stream"):
        raise ModelRejected("The model was not called: `stream` is not supported; leave it out.")
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ModelRejected(
            "The model was not called: a text is not valid Unicode (a lone surrogate)."
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelRejected(f"The model was not called: JSON cannot hold it: {error}.") from None


def _time_limit(wanted: Any, limit: float) -> float:
    if wanted is None:
        return limit
    is_number = isinstance(wanted, (int, float)) and not isinstance(wanted, bool)
    if not is_number or not wanted > 0 or not math.isfinite(wanted):
        raise ModelRejected(
            "The model was not called: timeout must be a number of seconds above 0."
        )
    return min(float(wanted), limit)


def _cancel(future: concurrent.futures.Future[Completion]) -> None:
    future.cancel()
