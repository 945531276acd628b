"""Sends requests with the `openai` SDK. Turns its errors into ours, and bounds what it reads.

`openai_provider.py` calls `exchange` for each try of a model call. It imports this module at its
first call and not earlier, because importing `openai` takes half a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

import aiohttp
import httpx2
import openai

from app.providers.base import ModelAnswerInvalid, ModelRejected, ModelUnavailable, too_large
from app.providers.reasons import one_line

MAX_ERROR_BYTES = 64 * 1024
"""How much of an error's body is read. The reason is at its beginning."""

MAX_CONNECTIONS = 2000
"""Connections that one process has open at once. Further calls wait for a free one."""

_TRANSFER_HEADERS = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that `BoundedClient` removes. They describe the body as the server sent it, and would be
wrong for the decompressed one.
"""

LAST_SECONDS = 0.25
"""How long a stream that has sent everything may take to end. If it ends, its connection is used
again.
"""

Exchange = tuple[int, dict[str, str], bytes]
"""Status, headers (their names in lower case) and body."""


class BodyReader(Protocol):
    """Reads the body of a success while it arrives. The response is then returned without it.

    `feed` returns True once it needs no more. `complete`: it does not matter if the rest is lost.
    """

    def begin(self, status: int, headers: Mapping[str, str]) -> None: ...

    def feed(self, piece: bytes) -> bool: ...

    @property
    def complete(self) -> bool: ...


_reader: ContextVar[BodyReader | None] = ContextVar("body_reader", default=None)
"""The reader of the present request: the SDK has no way to pass one to its HTTP client."""


def new_client(api_key: str | None, base_url: str | None, max_bytes: int) -> openai.AsyncOpenAI:
    """A client without retries and timeouts: the provider decides on these."""
    return openai.AsyncOpenAI(
        api_key=api_key or "none",  # local servers need no key, but the SDK insists on one
        base_url=base_url,
        timeout=None,
        max_retries=0,
        http_client=BoundedClient(max_bytes),
    )


async def exchange(
    client: openai.AsyncOpenAI,
    body: bytes,
    request: Any,
    secret: str | None,
    reader: BodyReader | None = None,
) -> Exchange:
    """Sends a request. Returns its response, whatever the status; `ModelError` if there is none."""
    _reader.set(reader)
    try:
        # Not `chat.completions.create`: it walks over its typed arguments and builds typed answers,
        # which doubles the cost of a call, and only a few values of the answer are needed.
        response = await client.post(
            "/chat/completions", cast_to=httpx2.Response, content=body, options=request
        )
    except openai.APIStatusError as error:
        response = error.response
    except openai.APIConnectionError as error:
        raise _no_answer(error.__cause__ or error, secret) from error
    except openai.OpenAIError as error:
        raise ModelRejected(one_line(str(error), secret)) from error
    except (aiohttp.ClientError, OSError, RuntimeError) as error:  # the SDK does not wrap these
        raise _no_answer(error, secret) from error
    except (TypeError, ValueError) as error:
        raise ModelRejected(
            f"The request cannot be sent: {one_line(str(error), secret)}."
        ) from error
    return response.status_code, _lower(response.headers), response.content


def _lower(headers: httpx2.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _no_answer(error: BaseException, secret: str | None) -> ModelUnavailable:
    reason = one_line(str(error), secret)
    # Some errors have no text, or only that of an object ("<... at 0x7f...>").
    if not reason or reason.startswith("<"):
        reason = type(error).__name__
    return ModelUnavailable(f"No answer from the model's server: {reason}.")


class BoundedClient(openai.DefaultAioHttpClient):
    """Reads answers of at most `max_bytes`, counted after decompression. Follows no redirects.

    A redirect would send prompts to a server that nobody has configured, or turn the call into a
    GET.
    """

    def __init__(self, max_bytes: int):
        limits = httpx2.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS
        )
        super().__init__(limits=limits, timeout=None, follow_redirects=False)
        self._max_bytes = max_bytes

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """The response with its body, whatever `stream` says. Raises `ModelAnswerInvalid`."""
        response = await super().send(request, stream=True, **options)
        reader = _reader.get()
        try:
            if reader is not None and response.is_success:
                reader.begin(response.status_code, _lower(response.headers))
                body = await _passed_on(response, reader)
            else:
                body = await self._body(response)
        finally:
            await response.aclose()
        headers = [
            pair
            for pair in response.headers.multi_items()
            if pair[0].lower() not in _TRANSFER_HEADERS
        ]
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)

    async def _body(self, response: httpx2.Response) -> bytes:
        """The whole body of an answer; of an error, as much of the body as could be read."""
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if not response.is_success and len(body) >= MAX_ERROR_BYTES:
                    return bytes(body[:MAX_ERROR_BYTES])
                if len(body) > self._max_bytes:
                    raise too_large(self._max_bytes)
        except httpx2.DecodingError as error:
            if response.is_success:
                raise _compressed_badly(error) from None
        except httpx2.RequestError:
            if response.is_success:
                raise
        return bytes(body)


async def _passed_on(response: httpx2.Response, reader: BodyReader) -> bytes:
    """Passes the body on to the reader. Returns nothing of it."""
    pieces = response.aiter_bytes()
    try:
        async for piece in pieces:
            if reader.feed(piece):
                break
    except httpx2.DecodingError as error:
        raise _compressed_badly(error) from None
    except httpx2.RequestError:
        if not reader.complete:
            raise
    else:
        with contextlib.suppress(TimeoutError, httpx2.RequestError):
            async with asyncio.timeout(LAST_SECONDS):
                async for _ in pieces:
                    pass
    return b""


def _compressed_badly(error: httpx2.DecodingError) -> ModelAnswerInvalid:
    return ModelAnswerInvalid(f"The model's answer cannot be decompressed: {error}.")
