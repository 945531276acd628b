"""Makes the connections to receivers, and bounds what each of them may send.

aiohttp bounds the lines and the headers of an answer, and `sender` reads only the beginning of its
body. Neither stops a receiver that sends something else for as long as a try lasts: interim answers
(`100 Continue`), extensions of chunks, empty lines. Read as fast as they come, they would take the
event loop away from the flows that the worker runs.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from app.worker.webhooks.guard import LookUp, Resolver, socket_opener

MAX_RECEIVED_BYTES = 64 * 1024
"""How much a receiver may send after a request, with headers and all else. Of a long body less than
this is received, because the kernel's buffer is small and nothing more is read.
"""

REUSE_SECONDS = 4.0
"""How long an idle connection is kept. Servers close theirs after five seconds or later."""

CHECKED_SECONDS = 5
"""How long the checked addresses of a name are used for further connections."""


_PIECES = re.compile(rb".*?\r\n\r\n|.+", re.DOTALL)
"""Each head of an answer, and what follows the last one."""


class AnswerTooLong(aiohttp.ClientError):
    """The receiver sent more than `MAX_RECEIVED_BYTES` before its answer was complete."""


class _Handler(ResponseHandler):
    """Keeps the status of an answer whatever follows it, and breaks the connection off when too
    much has come since the last request.
    """

    _received_bytes = 0

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls this for each request."""
        self._received_bytes = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes <= MAX_RECEIVED_BYTES:
            # In pieces: with something that is not valid, aiohttp drops all that it got with it. So
            # a body that is longer than announced would undo the status before it.
            # (aiohttp calls this without data to go on with a body.)
            for piece in _PIECES.findall(data) or [data]:
                if self.exception() is None:
                    super().data_received(piece)
        else:
            self.set_exception(AnswerTooLong())
            if self.transport is not None:
                self.transport.abort()

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        """Also ends the body, which would be waited for."""
        super().set_exception(exc, *cause)
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(exc, *cause)


class Connector(aiohttp.TCPConnector):
    """Connects to checked addresses. Made in its event loop. `tls` says what is trusted."""

    def __init__(self, *, allow_private: bool, look_up: LookUp, tls: ssl.SSLContext | bool):
        super().__init__(
            resolver=Resolver(allow_private=allow_private, look_up=look_up),
            socket_factory=socket_opener(allow_private=allow_private),
            ttl_dns_cache=CHECKED_SECONDS,
            keepalive_timeout=REUSE_SECONDS,
            limit=0,  # the deliverer decides how many are sent at once
            ssl=tls,
        )
        # aiohttp has no other place to name it. A test fails if this stops having an effect.
        loop = asyncio.get_running_loop()
        self._factory = functools.partial(_Handler, loop=loop)  # type: ignore[assignment]  # a subclass
