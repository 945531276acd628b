"""Sends one webhook: signed, to an address that has been checked, in bounded time and memory.

The deliverer calls `Sender.send` for each try, hundreds at a time. Import this module only where
webhooks are configured: aiohttp takes 0.1 s and 10 MB.

aiohttp, because it has an extension point for each thing that has to be kept in hand here: its own
resolver (the connection goes to the address that the resolver returned, and nothing is looked up a
second time), the making of sockets, cookies, decompression, the environment's proxies, redirects,
and a trace that says how far a request has come. A thousand requests cost it half of the CPU that
httpx2 takes.
"""

from __future__ import annotations

import asyncio
import http
import math
import os
import ssl
import time
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import structlog
from yarl import URL

from app.domain.callback_url import CallbackUrl, UrlRefused, parse
from app.domain.delivery import MAX_ANSWER_BYTES, Try
from app.domain.version import VERSION
from app.providers.waits import named_wait
from app.settings import Settings
from app.worker.webhooks.connections import AnswerTooLong, Connector
from app.worker.webhooks.guard import AddressRefused, LookUp, NameUnknown, look_up
from app.worker.webhooks.signing import Signer

SECONDS = 15.0
"""How long one try may take: looking up the name, connecting, TLS, sending and the answer."""

_HEADERS = {
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",  # a compressed answer of 1 KB could be a gigabyte
    "User-Agent": f"async-execution-api/{VERSION}",
}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Exchange:
    """How far a request has come. `trace` keeps it up to date."""

    doing: str = "The request to {host} was not sent"
    reused: bool = False
    code: int | None = None
    answer: bytearray = field(default_factory=bytearray)
    retry_after_seconds: float | None = None


class Sender:
    """Sends webhooks with the settings' secrets. Belongs to one event loop; `close` ends it.

    `look_up` finds the addresses of a name, and `tls` says which certificates are trusted: the
    system's, or those in the file that SSL_CERT_FILE names.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        look_up: LookUp = look_up,
        tls: ssl.SSLContext | bool = True,
        seconds: float = SECONDS,
    ):
        self._signer = Signer(settings.webhook_secrets)
        self._configured = bool(settings.webhook_secrets)
        self._allow_private = settings.webhook_allow_private
        self._look_up, self._tls, self._seconds = look_up, tls, seconds
        self._session: aiohttp.ClientSession | None = None

    async def send(self, url: str, id: str, body: bytes, at: datetime) -> Try:
        """Sends an event once, and returns how that ended. Never raises, except when cancelled.

        `at` is the time of this try, in UTC. It is signed, so that nobody can send the same request
        again later. `id` stays the same for all tries of a delivery.
        """
        begun = time.monotonic()
        exchange = _Exchange()
        error = await self._failure(url, id, body, at, exchange)
        return Try(
            at=at,
            code=exchange.code,
            error=error,
            seconds=round(time.monotonic() - begun, 3),
            answer=exchange.answer.decode(errors="replace"),
            retry_after_seconds=exchange.retry_after_seconds,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _failure(
        self, url: str, id: str, body: bytes, at: datetime, exchange: _Exchange
    ) -> str | None:
        """Sends it, and returns why it failed, as one sentence; None if it was accepted."""
        if not self._configured:
            return "The worker has no WEBHOOK_SECRET, so it cannot sign webhooks."
        try:
            target = parse(url, allow_private=self._allow_private)
        except UrlRefused as refused:
            return str(refused)
        try:
            async with asyncio.timeout(self._seconds):
                await self._exchange(target, self._signer.headers(id, body, at), body, exchange)
        except TimeoutError:
            if exchange.code is None:
                return f"{exchange.doing.format(host=target.host)} within {self._seconds:g} s."
        except Exception as error:
            if exchange.code is None:
                return _reason(error, target)
        # From here on there is a status. It says whether the receiver accepted the event, even if
        # the rest of its answer is slow or broken off.
        return _refused_by_receiver(exchange.code)

    async def _exchange(
        self, target: CallbackUrl, headers: dict[str, str], body: bytes, exchange: _Exchange
    ) -> None:
        try:
            await self._post(target, headers, body, exchange)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # The receiver closed an idle connection while the request was on its way. It is safe
            # to send it again: receivers know repeats by `webhook-id`.
            if not exchange.reused or exchange.code is not None:
                raise
            exchange.reused = False
            await self._post(target, headers, body, exchange)

    async def _post(
        self, target: CallbackUrl, headers: dict[str, str], body: bytes, exchange: _Exchange
    ) -> None:
        response = await self._connected().post(
            URL(target.text, encoded=True),
            data=body,
            headers=_HEADERS | headers,
            allow_redirects=False,
            trace_request_ctx=exchange,
        )
        try:
            exchange.code = response.status
            exchange.retry_after_seconds = named_wait(
                {name.lower(): value for name, value in response.headers.items()},
                time.time(),
                math.inf,
            )
            await _read_beginning(response, exchange.answer)
        finally:
            # What was not read on is never read: the connection is closed with it.
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    def _connected(self) -> aiohttp.ClientSession:
        # Made at the first request, because aiohttp insists on a running event loop.
        if self._session is None:
            connector = Connector(
                allow_private=self._allow_private, look_up=self._look_up, tls=self._tls
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `send` has its own
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=MAX_ANSWER_BYTES,
                trace_configs=[_trace()],
            )
        return self._session


async def _read_beginning(response: aiohttp.ClientResponse, answer: bytearray) -> None:
    while missing := MAX_ANSWER_BYTES - len(answer):
        chunk = await response.content.read(missing)
        if not chunk:
            return
        answer += chunk


def _trace() -> aiohttp.TraceConfig:
    """Keeps the `_Exchange` of each request up to date."""
    trace = aiohttp.TraceConfig()

    def notes(doing: str, **changes: Any) -> Any:
        async def note(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
            exchange: _Exchange = context.trace_request_ctx
            exchange.doing = doing
            for name, value in changes.items():
                setattr(exchange, name, value)

        return note

    answered = notes("{host} did not answer")
    trace.on_connection_create_start.append(notes("No connection to {host}"))
    trace.on_dns_resolvehost_start.append(notes("The name {host} was not resolved"))
    trace.on_dns_resolvehost_end.append(notes("No connection to {host}"))
    trace.on_connection_create_end.append(answered)
    trace.on_connection_reuseconn.append(notes("{host} did not answer", reused=True))
    return trace


def _refused_by_receiver(code: int | None) -> str | None:
    """Why the receiver's status is a failure, None if it is a success."""
    if code is None:
        return "The receiver did not answer."
    if 200 <= code < 300:
        return None
    phrase = http.HTTPStatus(code).phrase if code in http.HTTPStatus._value2member_map_ else ""
    named = f"{code} {phrase}".rstrip()
    if 300 <= code < 400:
        return f"The receiver answered {named}. Redirects are not followed."
    return f"The receiver answered {named}."


def _reason(error: Exception, target: CallbackUrl) -> str:
    """Why there was no answer, as one sentence. It never holds the URL: that may have a secret."""
    host = target.host
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        certificate = error.certificate_error
        found = getattr(certificate, "verify_message", "") or str(certificate)
        return f"The certificate of {host} is not valid: {found.rstrip('.')}."
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"TLS with {host} failed: {_tls_reason(error)}."
    cause: Any = getattr(error, "os_error", error)
    if isinstance(cause, (AddressRefused, NameUnknown)):
        return str(cause)
    if isinstance(error, aiohttp.ClientConnectorError):
        found = os.strerror(cause.errno) if cause.errno else "all of its addresses failed"
        return f"Cannot connect to {host}:{target.port}: {found}."
    if isinstance(error, (aiohttp.ServerDisconnectedError, OSError)):
        return f"{host} closed the connection without an answer."
    if isinstance(error, AnswerTooLong):
        return f"{host} sent too much before its answer."
    if isinstance(error, aiohttp.ClientResponseError):
        return f"The answer of {host} is not valid HTTP."
    log.error("webhook_not_sent", host=host, exc_info=error)
    return f"The request to {host} failed: {type(error).__name__}."


def _tls_reason(error: aiohttp.ClientConnectorSSLError) -> str:
    reason: str | None = getattr(error.os_error, "reason", None)
    return reason.replace("_", " ").lower() if reason else "the receiver broke it off"
