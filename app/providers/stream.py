"""Reads a model's answer while it arrives, as Server-Sent Events, and puts it together.

`openai_provider.py` makes one `StreamedAnswer` for each request with `stream: true`. The result has
the form of an answer that came as a whole, so `answers.py` reads both with the same code. A server
that ignores `stream` answers with a single JSON object, which is kept as it is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from app.providers.answers import completion_of, error_in, texts_of
from app.providers.base import Completion, ModelAnswerInvalid, ModelUnavailable, too_large
from app.providers.event_lines import EventLines, ServerEvent
from app.providers.faults import refused_within
from app.providers.reply import Reply
from app.providers.token_counts import token_counts
from app.providers.tool_calls import ToolCalls

_FIRST_WORDS = (b"data:", b"event:", b"id:", b"retry:", b":", b"\xef\xbb\xbf")


class StreamEndedEarly(ModelUnavailable):
    """The stream ended, and nothing in it said that the answer was complete."""


class StreamedAnswer:
    """One answer: a `BodyReader` of `openai_client.py`. `completion` reads what has come.

    `on_text` gets each piece of the answer's text at once. `reply_of` makes a `Reply` of status,
    headers and body.
    """

    def __init__(
        self,
        on_text: Callable[[str], None],
        max_bytes: int,
        reply_of: Callable[[int, Mapping[str, str], bytes], Reply],
    ):
        self._on_text = on_text
        self._max_bytes = max_bytes
        self._reply_of = reply_of
        self._head = Reply(b"")
        self._is_stream: bool | None = None  # None: not clear yet
        self._whole = bytearray()
        self._lines = EventLines()
        self._parts = _Parts()
        self._done = False

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Takes the head of the response."""
        self._head = self._reply_of(status, headers, b"")

    def feed(self, piece: bytes) -> bool:
        """Takes the next piece of the body. Returns True once the server has said that it has sent
        everything. Raises a `ModelError`.
        """
        if self._is_stream is None:
            # Servers send blank lines while they wait.
            self._whole += piece if self._whole else piece.lstrip()
            self._is_stream = _is_stream(bytes(self._whole[:16]), self._head.headers)
            if self._is_stream:
                piece = bytes(self._whole)
                self._whole.clear()
        elif not self._is_stream:
            self._whole += piece
        if self._is_stream:
            for event in self._lines.feed(piece):
                self._take(event)
        if len(self._whole) + self._lines.waiting_bytes + self._parts.size_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        return self._done

    @property
    def complete(self) -> bool:
        """Whether the stream has said that the answer is complete. Then a lost connection costs
        nothing but the report of tokens.
        """
        return self._done or self._parts.has_ended

    @property
    def is_stream(self) -> bool:
        return bool(self._is_stream)

    @property
    def whole(self) -> bytes:
        """The body, if it is no stream."""
        return bytes(self._whole)

    def completion(self, requested_model: str) -> Completion:
        """The answer in a stream that has ended. Raises a `ModelError`."""
        with contextlib.suppress(ModelAnswerInvalid):  # half an event says nothing
            for event in self._lines.flush():
                self._take(event)
        if not self.complete:
            raise StreamEndedEarly("The model's server ended its stream before the answer's end.")
        return completion_of(*self._parts.joined(), requested_model)

    def _take(self, event: ServerEvent) -> None:
        if event.data == b"[DONE]":
            self._done = True
        elif not self._done:
            chunk = self._json(event)
            error = error_in(chunk) or (chunk if event.name == "error" else None)
            error = error or self._parts.add(chunk, self._on_text)
            if error:
                raise refused_within(error, self._head)

    def _json(self, event: ServerEvent) -> dict[str, Any]:
        """The data of an event. Raises a `ModelAnswerInvalid` if it is no JSON object."""
        try:
            chunk = json.loads(event.data, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            if event.name == "error":
                return {"error": replace(self._head, body=event.data).reason or "no reason given."}
            raise ModelAnswerInvalid("The model's server sent an event that is not JSON.") from None
        if isinstance(chunk, dict):
            return chunk
        if event.name == "error" and chunk:
            return {"error": chunk}
        raise ModelAnswerInvalid("The model's server sent an event that is not a JSON object.")


class _Parts:
    """What the chunks of a stream have brought of the first answer in it."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.has_ended = False
        self._texts: list[str] = []
        self._half = ""
        """The first half of a character that a server has cut into two: see `_split_half`."""
        self._refusals: list[str] = []
        self._tool_calls = ToolCalls()
        self._reasoned = False
        self._index: Any = None
        self._finish_reason: Any = None
        self._model: Any = None
        self._counted: Mapping[str, Any] = {}

    def add(self, chunk: dict[str, Any], on_text: Callable[[str], None]) -> Any:
        """Adds a chunk. Returns the error in one of its choices, if there is one."""
        self._model = self._model or chunk.get("model")
        listed = chunk.get("choices")
        listed = listed if isinstance(listed, list) else []
        choices = [choice for choice in listed if isinstance(choice, dict)]
        counted = {name: value for name, value in chunk.items() if name != "choices"}
        if token_counts(counted).total:
            self._counted = counted  # some servers send many reports, and the last one is the sum
            self.has_ended = self.has_ended or not choices
        for choice in choices:
            if choice.get("error"):
                return choice["error"]
            index = choice.get("index") or 0
            self._index = index if self._index is None else self._index
            if index == self._index:  # of several answers one counts
                self._add_choice(choice, on_text)
        return None

    def joined(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answer and its choice, in the form in which they come as a whole."""
        message = {
            "content": "".join([*self._texts, self._half]),
            "refusal": "".join(self._refusals),
            "tool_calls": self._tool_calls.listed,
            "reasoning": self._reasoned,
        }
        choice = {"message": message, "finish_reason": self._finish_reason}
        return {**self._counted, "model": self._model}, choice

    def _add_choice(self, choice: dict[str, Any], on_text: Callable[[str], None]) -> None:
        if choice.get("finish_reason"):
            self._finish_reason = choice["finish_reason"]
            self.has_ended = True
        delta, whole = choice.get("delta"), choice.get("message")
        if isinstance(delta, dict) and delta:
            self._add_message(delta, on_text)
        elif isinstance(whole, dict):
            self._add_message(self._rest_of(whole), on_text)
        elif isinstance(choice.get("text"), str):  # the form of an old completion
            self._add_message({"content": choice["text"]}, on_text)

    def _rest_of(self, message: dict[str, Any]) -> dict[str, Any]:
        """What is new in a message that a server repeats as a whole, longer each time."""
        text, known = texts_of(message).text, "".join(self._texts)
        new = text[len(known) :] if text.startswith(known) else ""
        refusal = "" if self._refusals else message.get("refusal")
        rest = {**message, "content": new, "refusal": refusal}
        return (
            {**rest, "tool_calls": None, "function_call": None} if self._tool_calls.listed else rest
        )

    def _add_message(self, message: dict[str, Any], on_text: Callable[[str], None]) -> None:
        text, refusal, reasoned = texts_of(message)
        self._reasoned = self._reasoned or reasoned
        self.size_bytes += self._tool_calls.add(message)
        self.size_bytes += len(text.encode(errors="replace")) + len(refusal)
        if refusal:
            self._refusals.append(refusal)
            if not self._texts:  # then it takes the place of the text
                on_text(refusal)
        if text:
            whole, self._half = _split_half(self._half + text)
            self._texts.append(whole)
            on_text(whole)


def _split_half(text: str) -> tuple[str, str]:
    """The text, and the first half of a character at its end, which waits for the second half.

    Some servers cut a text between the two halves (`\\ud83d` and `\\ude00`) of a character in JSON.
    """
    half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
    text = text[: len(text) - len(half)]
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text, half


def _is_stream(start: bytes, headers: Mapping[str, str]) -> bool | None:
    """Whether a body that begins like this is a stream of events; None if that is not clear yet."""
    if not start:
        return None
    if start.startswith((b"{", b"[", b"<")):
        return False
    if headers.get("content-type", "").lower().startswith("text/event-stream"):
        return True
    if any(word.startswith(start) for word in _FIRST_WORDS if len(word) > len(start)):
        return None
    return start.startswith(_FIRST_WORDS)
