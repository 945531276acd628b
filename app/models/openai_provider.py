"""Chat completions from anything that speaks OpenAI's API (OpenAI, Ark/Doubao, Ollama, vLLM, ...)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

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
from app.settings import Settings

MAX_CONNECTIONS = 2000

_REQUEST_OPTIONS = {
    "timeout": "timeout",
    "extra_headers": "headers",
    "extra_query": "params",
    "extra_body": "extra_json",
}
"""The options of the SDK's `create` that do not go into the body as they are, and their names in `post`."""


class OpenAIProvider:
    """Calls from any number of threads share one event loop, one client and its connections.

    They start with the first call, so that a provider may be made before a fork, and `openai` (half a
    second to import) is only loaded where it is used. 429 and 5xx are repeated by the SDK, with back-off
    that honours `Retry-After`.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: Any = None

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        stop: Stop | None = None,
        **options: Any,
    ) -> Completion:
        """See `ModelProvider`."""
        if stop and stop.requested:
            raise Stopped
        asked = self._ask(messages, model or self._settings.openai_model_name, options)
        future = asyncio.run_coroutine_threadsafe(asked, self._started())
        unsubscribe = stop.subscribe(partial(_cancel, future)) if stop else None
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Stopped from None
        finally:
            if unsubscribe:
                unsubscribe()

    def close(self) -> None:
        """Closes the connections and ends the event loop, where there is one. No call may be under way."""
        if self._loop is not None and self._thread is not None:
            if self._client is not None:
                asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _ask(self, messages: Sequence[Mapping[str, Any]], model: str, options: dict[str, Any]) -> Completion:
        import httpx2
        import openai

        if self._client is None:
            self._client = self._new_client()
        request = {_REQUEST_OPTIONS[name]: value for name, value in options.items() if name in _REQUEST_OPTIONS}
        body = {name: value for name, value in options.items() if name not in _REQUEST_OPTIONS}
        try:
            # Not `chat.completions.create`: that walks over its typed arguments and builds typed answers, which
            # doubles what a call costs, for five values. Retries, time limits and errors are the same.
            response = await self._client.post(
                "/chat/completions",
                cast_to=httpx2.Response,
                body={"messages": list(messages), "model": model, **body},
                options=request,
            )
        except openai.OpenAIError as error:
            raise _translated(error) from error
        return _completion(response.json(), model)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="models", daemon=True)
                self._thread.start()
            return self._loop

    def _new_client(self) -> Any:
        import httpx2
        import openai

        settings = self._settings
        if not settings.openai_api_key and not settings.openai_base_url:
            raise ModelAuthenticationError("No model is set up: give OPENAI_API_KEY, or OPENAI_BASE_URL.")
        limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
        return openai.AsyncOpenAI(
            api_key=settings.openai_api_key or "none",  # local servers want none, the SDK insists on one
            base_url=settings.openai_base_url,
            timeout=settings.model_timeout,
            max_retries=settings.model_max_retries,
            http_client=openai.DefaultAioHttpClient(limits=limits, timeout=settings.model_timeout),
        )


def _cancel(future: concurrent.futures.Future[Completion]) -> None:
    future.cancel()


def _completion(data: Any, model: str) -> Completion:
    try:
        text = data["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ModelRejected("The model's answer holds no message.") from None
    usage = data.get("usage") or {}
    tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    return Completion(text or "", data.get("model") or model, *tokens)


def _translated(error: Exception) -> ModelError:
    """The SDK's errors as ours, with what the provider said and without its key."""
    import httpx2
    import openai

    if isinstance(error, openai.APITimeoutError) and not isinstance(error.__cause__, httpx2.ConnectTimeout):
        return ModelTimeout("The model did not answer within MODEL_TIMEOUT.")
    if isinstance(error, openai.APIConnectionError):
        return ModelUnavailable(f"The model can not be reached: {error.__cause__ or error}.")
    if not isinstance(error, openai.APIStatusError):
        return ModelRejected(str(error))
    body = error.body if isinstance(error.body, dict) else {}
    message = f"The model's server answered {error.status_code}: {body.get('message') or error.message}"
    wait_seconds = _retry_after_seconds(error.response.headers.get("retry-after"))
    if error.status_code == 429:
        return ModelRateLimited(message, wait_seconds)
    if error.status_code in (401, 403):
        return ModelAuthenticationError(message)
    return ModelUnavailable(message, wait_seconds) if error.status_code >= 500 else ModelRejected(message)


def _retry_after_seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None  # a date: the back-off's own wait will do
