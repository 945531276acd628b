"""A receiver of webhooks for tests: answers as scripted, and records the requests.

Benchmarks start it as `python -m tests.support.receiver PORT`; then `GET /` answers how many
webhooks have come.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook

from tests.support.loop_server import LoopServer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3GxSr5XyzTs="


@dataclass(frozen=True)
class Answer:
    """Sent after `delay_seconds`. With `hang_up`, the connection is closed instead."""

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    hang_up: bool = False


@dataclass(frozen=True)
class Received:
    """A request whose signature is right. `body` is its JSON."""

    path: str
    id: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


class Receiver(LoopServer):
    """Started by `with`. `answer` returns the answer to a request; a test may replace it.

    A request with a wrong signature is answered 400, and counted in `unsigned`.
    """

    def __init__(self, port: int = 0, *, verifies: bool = True):
        super().__init__(port)
        self.answer: Callable[[Received], Answer] = lambda _: Answer()
        self.received: list[Received] = []
        self.unsigned = 0
        self.count = 0
        self.at_once = self.most_at_once = 0
        self._webhook = Webhook(SECRET) if verifies else None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def ids(self) -> list[str]:
        return [received.id for received in self.received]

    def of(self, execution_id: str) -> list[Received]:
        """What was received of one execution, in order."""
        return [one for one in self.received if one.body["data"]["execution_id"] == execution_id]

    def until(self, count: int, seconds: float = 60) -> list[Received]:
        """Waits for so many requests."""
        deadline = time.monotonic() + seconds
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"Only {len(self.received)} of {count}."
            time.sleep(0.01)
        return list(self.received)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                headers = {
                    name.lower(): value
                    for name, _, value in (line.partition(": ") for line in lines if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    answer = self._taken(first.split(" ")[1], headers, body)
                    await asyncio.sleep(answer.delay_seconds)
                finally:
                    self.at_once -= 1
                if answer.hang_up:
                    return
                await _write(writer, answer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    def _taken(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if not body:
            return Answer(200, str(self.count).encode())
        self.count += 1
        if self._webhook is None:
            return Answer()
        try:
            self._webhook.verify(body, headers)
        except Exception:
            self.unsigned += 1
            return Answer(400)
        found = Received(path, headers["webhook-id"], headers, json.loads(body), time.monotonic())
        self.received.append(found)
        return self.answer(found)


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    lines = [
        f"HTTP/1.1 {answer.status} Answer",
        f"Content-Length: {len(answer.body)}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body)
    await writer.drain()


if __name__ == "__main__":
    with Receiver(int(sys.argv[1]), verifies=False):
        threading.Event().wait()
