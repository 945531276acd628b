"""A model server for tests: answers OpenAI chat completions as scripted, and records requests.

Benchmarks start it as `python -m tests.support.model_server PORT DELAY_SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.loop_server import LoopServer

DRIP_SECONDS = 0.1

USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}


@dataclass
class Answer:
    """One scripted answer, sent after `delay_seconds`. A `status` other than 200 is an error.

    `raw` replaces the whole body. `message` and `choice` are merged into those of the answer;
    `usage` replaces its usage. With `drip_seconds`, blank lines are sent one by one for so long
    before the body. With `hang_up`, the connection ends in the middle of the body.

    A caller that asks for a stream gets one, unless `streams` is false or there is another status.
    `pieces` are the texts of its chunks (by default the words of `text`); a dict is sent as a chunk
    of its own, bytes as they are. `pause_seconds` is the time before each piece. `ends` says what
    comes after them: the finish reason, the usage if the caller wants it, and `[DONE]`.
    """

    text: str = "An answer."
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    raw: str | bytes | None = None
    message: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    usage: Any = field(default_factory=lambda: USAGE)
    drip_seconds: float = 0.0
    hang_up: bool = False
    streams: bool = True
    pieces: list[Any] | None = None
    pause_seconds: float = 0.0
    ends: tuple[str, ...] = ("reason", "usage", "done")

    def is_streamed(self, asked: dict[str, Any]) -> bool:
        plain = self.status == 200 and self.raw is None and self.streams
        return plain and bool(asked.get("stream"))

    def events(self, asked: dict[str, Any]) -> list[bytes]:
        """The parts of the body of a stream."""
        words = re.findall(r"\S+\s*", self.text) if self.pieces is None else self.pieces
        parts = [self._event(asked, word) for word in words]
        if "reason" in self.ends:
            last = {"index": 0, "delta": {}, "finish_reason": "stop", **self.choice}
            parts.append(self._event(asked, {"choices": [last]}))
        if "usage" in self.ends and (asked.get("stream_options") or {}).get("include_usage"):
            parts.append(self._event(asked, {"choices": [], "usage": self.usage}))
        return [*parts, b"data: [DONE]\n\n"] if "done" in self.ends else parts

    def _event(self, asked: dict[str, Any], piece: Any) -> bytes:
        if isinstance(piece, bytes):
            return piece
        if isinstance(piece, str):
            piece = {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        served = {"object": "chat.completion.chunk", "model": f"{asked['model']}-served"}
        return b"data: " + json.dumps({**served, **piece}).encode() + b"\n\n"

    def body(self, asked: dict[str, Any]) -> bytes:
        if self.raw is not None:
            return self.raw if isinstance(self.raw, bytes) else self.raw.encode()
        if self.status != 200:
            return json.dumps({"error": {"message": self.text, "type": "stand_in"}}).encode()
        message = {"role": "assistant", "content": self.text, **self.message}
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": f"{asked['model']}-served",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message, **self.choice}],
            "usage": self.usage,
        }
        return json.dumps(answer).encode()


class ModelServer(LoopServer):
    """Started by `with`. Sends `answers` in order, afterwards what `reply` returns.

    Unless a test sets it, `reply` returns `default`.
    """

    def __init__(self, port: int = 0, default: Answer | None = None):
        super().__init__(port)
        self.at_once = 0
        self.begin(default)

    def begin(self, default: Answer | None = None) -> None:
        """Resets the server: removes scripted answers and recorded requests of earlier tests."""
        self.default = default or Answer()
        self.answers: deque[Answer] = deque()
        self.reply: Callable[[dict[str, Any]], Answer] = lambda asked: self.default
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self.hung_up: list[None] = []

    @property
    def aborted(self) -> int:
        """The number of callers that hung up before their answer."""
        return len(self.hung_up)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def play(self, *answers: Answer | str) -> None:
        self.answers.extend(
            answer if isinstance(answer, Answer) else Answer(answer) for answer in answers
        )

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(
                    line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
                )
                asked = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.requests.append(asked)
                headers["port"] = str(writer.get_extra_info("peername")[1])
                self.headers.append(headers)
                hung_up = self.hung_up  # `begin` may replace it while this request waits
                answer = self.answers.popleft() if self.answers else self.reply(asked)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    await self._wait(reader, answer.delay_seconds, hung_up)
                finally:
                    self.at_once -= 1
                if answer.is_streamed(asked):
                    await self._stream(reader, writer, answer, asked)
                else:
                    await self._answer(writer, answer, asked)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _wait(
        self, reader: asyncio.StreamReader, seconds: float, hung_up: list[None]
    ) -> None:
        """Sleeps. Raises `ConnectionError` if the caller hangs up meanwhile."""
        if not seconds:
            return
        try:
            more = await asyncio.wait_for(reader.read(1), seconds)
        except TimeoutError:
            return
        except ConnectionError:  # the caller had not read everything yet
            more = b""
        if not more:
            hung_up.append(None)
            raise ConnectionError

    async def _stream(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Answer,
        asked: dict[str, Any],
    ) -> None:
        headers = {"Content-Type": "text/event-stream", **answer.headers}
        lines = ["HTTP/1.1 200 Answer", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "Transfer-Encoding: chunked"]).encode() + b"\r\n\r\n")
        hung_up = self.hung_up
        for part in answer.events(asked):
            await self._wait(reader, answer.pause_seconds, hung_up)
            try:
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await writer.drain()
            except ConnectionError:
                hung_up.append(None)
                raise
        if answer.hang_up:
            raise ConnectionError
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _answer(
        self, writer: asyncio.StreamWriter, answer: Answer, asked: dict[str, Any]
    ) -> None:
        body = answer.body(asked)
        headers = {"Content-Type": "application/json", **answer.headers}
        headers |= (
            {"Transfer-Encoding": "chunked"}
            if answer.drip_seconds
            else {"Content-Length": str(len(body))}
        )
        lines = [
            f"HTTP/1.1 {answer.status} Answer",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if answer.hang_up:
            writer.write(body[: len(body) // 2])
            await writer.drain()
            raise ConnectionError
        if answer.drip_seconds:
            for _ in range(int(answer.drip_seconds / DRIP_SECONDS)):
                writer.write(b"1\r\n\n\r\n")
                await writer.drain()
                await asyncio.sleep(DRIP_SECONDS)
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        writer.write(body)
        await writer.drain()


if __name__ == "__main__":
    with ModelServer(int(sys.argv[1]), Answer(delay_seconds=float(sys.argv[2]))):
        threading.Event().wait()
