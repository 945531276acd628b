"""Chat completions from anything that speaks OpenAI's API (OpenAI, Ark/Doubao, Ollama, vLLM, ...)."""

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

from app.models.answers import read_answer
from app.models.base import (
    Completion,
    ModelAuthenticationError,
    ModelError,
    ModelRateLimited,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    Stop,
    Stopped,
)
from app.models.event_loop import EventLoopThread
from app.models.faults import refused
from app.models.reply import Reply
from app.models.waits import named_wait
from app.settings import Settings

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
"""Between repeats where the server names no wait: doubled each time."""

ENVELOPE_BYTES = 1024 * 1024
"""How much larger than the largest outputs an answer may be, for what stands around its text."""

SHORTEST_SECRET = 8
"""A shorter key would hide parts of ordinary words; a real one is longer."""

_REPEATED = (ModelRateLimited, ModelUnavailable)
"""Repeated within a call. Useless answers were paid for: `config.retries` decides on them."""

_REQUEST_OPTIONS = {"extra_headers": "headers", "extra_query": "params"}
"""Options that are about the request and not in its body, and their names in the SDK's `post`."""


class OpenAIProvider:
    """Calls from any number of threads share one event loop, one client and its connections.

    They start with the first call, so that a provider may be made before a fork, and `openai` is
    only loaded where it is used. The SDK sends; repeats and time limits are decided here, because
    MODEL_TIMEOUT holds for all tries together.
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
        """See `ModelProvider`. `timeout`, in seconds, may shorten MODEL_TIMEOUT."""
        if stop_signal and stop_signal.requested:
            raise Stopped
        asked_model = model or self._settings.openai_model_name
        seconds = _time_limit(options.pop("timeout", None), self._settings.model_timeout)
        request = {
            _REQUEST_OPTIONS[name]: options.pop(name)
            for name in _REQUEST_OPTIONS
            if name in options
        }
        body = _body(messages, asked_model, options)
        _sdk()
        try:
            future = self._loop.submit(self._ask(body, request, asked_model, seconds))
        except (RuntimeError, OSError) as error:
            raise ModelUnavailable(
                f"The model cannot be asked now, for want of threads or files: {error}."
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
        """Closes the connections and ends the event loop. No call may be under way."""
        self._loop.close(self._close_client())

    async def _close_client(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _ask(
        self, body: bytes, request: dict[str, Any], model: str, seconds: float
    ) -> Completion:
        """Asks, and asks again where that may help and there is time."""
        deadline = time.monotonic() + seconds
        failed: ModelError | None = None
        retries = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return replace(
                            read_answer(await self._reply(body, request), model), retries=retries
                        )
                    except ModelError as error:
                        failed = error
                        pause = self._pause(error, retries, deadline - time.monotonic())
                        if pause is None:
                            raise
                        await asyncio.sleep(pause)
                        retries += 1
        except TimeoutError:
            before = f" Before that: {failed}" if failed else ""
            failed = ModelTimeout(
                f"The model did not answer within {seconds:g} s (MODEL_TIMEOUT).{before}"
            )
            raise failed from None
        finally:
            if failed:
                failed.retries = retries

    def _pause(self, error: ModelError, retries: int, left_seconds: float) -> float | None:
        """Seconds until the next repeat, as the server asks or growing; None for no repeat."""
        if (
            not (isinstance(error, _REPEATED) and error.transient)
            or retries >= self._settings.model_max_retries
        ):
            return None
        own = min(FIRST_PAUSE_SECONDS * 2**retries, LONGEST_PAUSE_SECONDS)
        pause = error.retry_after_seconds or own * random.uniform(0.75, 1.0)  # noqa: S311  no secret
        return pause if pause < left_seconds else None

    async def _reply(self, body: bytes, request: dict[str, Any]) -> Reply:
        """One exchange. Raises a `ModelError` if there is no reply, or one without success."""
        status, headers, content = await _sdk().exchange(
            self._current_client(), body, request, self._secret
        )
        wait = named_wait(headers, time.time(), self._settings.max_retry_after)
        reply = Reply(content, status, headers, wait, self._secret)
        if not 200 <= status < 300:
            raise refused(reply)
        return reply

    def _current_client(self) -> Any:
        """The client of the present loop. Called in its thread only."""
        if self._client is None or self._client_generation != self._loop.generation:
            self._client, self._client_generation = self._new_client(), self._loop.generation
        return self._client

    def _new_client(self) -> Any:
        settings = self._settings
        if not settings.openai_api_key and not settings.openai_base_url:
            raise ModelAuthenticationError(
                "No model is set up: give OPENAI_API_KEY, or OPENAI_BASE_URL."
            )
        limit = settings.max_result_bytes + ENVELOPE_BYTES
        return _sdk().new_client(settings.openai_api_key, settings.openai_base_url, limit)


def _sdk() -> Any:
    """Takes half a second for the first time, so it is called outside of the event loop first."""
    from app.models import openai_client

    return openai_client


def _body(messages: Sequence[Mapping[str, Any]], model: str, options: dict[str, Any]) -> bytes:
    """The request as JSON. Raises `ModelRejected` for what JSON cannot hold."""
    extra = options.pop("extra_body", None) or {}
    if not isinstance(extra, Mapping):
        raise ModelRejected("The model was not asked: extra_body must be a mapping.")
    body = {"messages": list(messages), "model": model, **options, **extra}
    if body.get("stream"):
        raise ModelRejected("The model was not asked: answers come whole, so leave `stream` out.")
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ModelRejected(
            "The model was not asked: a text is not valid Unicode (a lone surrogate)."
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelRejected(f"The model was not asked: the request is not JSON: {error}.") from None


def _time_limit(wanted: Any, limit: float) -> float:
    if wanted is None:
        return limit
    if (
        isinstance(wanted, bool)
        or not isinstance(wanted, (int, float))
        or not (wanted > 0 and math.isfinite(wanted))
    ):
        raise ModelRejected("The model was not asked: timeout must be a number of seconds above 0.")
    return min(float(wanted), limit)


def _cancel(future: concurrent.futures.Future[Completion]) -> None:
    future.cancel()
