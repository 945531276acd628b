"""Reads chat completions in all the forms that servers really send.

`openai_provider.py` calls `read_answer` for each reply with a status of success. What the server
left out, or put in an unusual place, is no error as long as the meaning is certain. Everything else
raises a `ModelError`.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from app.providers.base import Completion, ModelAnswerInvalid, ModelError
from app.providers.faults import refused_within, without_text
from app.providers.reasons import one_line
from app.providers.reply import Reply
from app.providers.token_counts import token_counts

MAX_NAME = 256
"""The most characters of a model's name or a finish reason, which are stored as keys and values."""

_MAX_DEPTH = 4
"""The most levels of lists and objects within a content. Deeper ones are not read."""

_NO_ANSWER = ("thinking", "reasoning", "redacted_thinking")
"""Types of content parts that are not for the reader."""


def read_answer(reply: Reply, requested_model: str) -> Completion:
    """The completion in a reply with a status of success. Raises a `ModelError`."""
    answer = _json(reply)
    error = error_in(answer)
    if error:
        raise refused_within(error, reply)
    choice = _choice(answer)
    if choice is None:
        raise ModelAnswerInvalid(f"The model's answer contains no choices{_ending(reply)}")
    if choice.get("error"):
        raise refused_within(choice["error"], reply)
    return completion_of(answer, choice, requested_model)


def error_in(answer: dict[str, Any]) -> Any:
    """The error in an answer, or None. Gateways answer 200 before they know that the server behind
    them fails.
    """
    return answer.get("error") or (answer if answer.get("object") == "error" else None)


def error_of(reply: Reply) -> Any:
    """The error in a reply that reports success; None if it has none, or is no answer at all."""
    try:
        return error_in(_json(reply))
    except ModelError:
        return None


def completion_of(
    answer: dict[str, Any], choice: dict[str, Any], requested_model: str
) -> Completion:
    """The completion of an answer that has this choice. Raises a `ModelError` if it is empty."""
    message = _message(choice) or {}
    text, refusal, reasoned = texts_of(message)
    tool_calls = _tool_calls(message)
    finish_reason = _name(choice.get("finish_reason"))
    if not (text or refusal or tool_calls):
        raise without_text(finish_reason, reasoned=reasoned)
    tokens = token_counts(answer)
    return Completion(
        text=text or refusal,
        model=_name(answer.get("model")) or requested_model,
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        total_tokens=tokens.total,
        finish_reason=finish_reason,
        refusal=one_line(refusal) or None,
        tool_calls=tool_calls,
    )


class Texts(NamedTuple):
    """The texts of a message, or of a piece of one. `reasoned`: it has reasoning."""

    text: str
    refusal: str
    reasoned: bool


def texts_of(message: dict[str, Any]) -> Texts:
    """The texts of a message, wherever the server has put them."""
    content = message.get("content")
    refusal = _text(message.get("refusal")) or _refusal_part(content)
    return Texts(_text(content), refusal, _has_reasoning(message))


def _json(reply: Reply) -> dict[str, Any]:
    try:
        text = reply.body.decode(reply.encoding or json.detect_encoding(reply.body))
        # NaN and Infinity are not JSON, but some servers send them, as log probabilities for
        # example.
        answer = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise _no_json(reply) from None
    if not isinstance(answer, dict):
        raise ModelAnswerInvalid("The model's server answered with JSON that is not an object.")
    return answer


def _no_json(reply: Reply) -> ModelError:
    """The error that says what a body is if it is not JSON."""
    begin = reply.body.lstrip()[:6]
    content_type = reply.headers.get("content-type", "").lower()
    if not begin:
        return ModelAnswerInvalid("The model's server answered with an empty body.")
    says_so = content_type.startswith("text/event-stream") and not begin.startswith(b"<")
    if says_so or begin.startswith((b"data:", b"event:", b":")):
        error = _error_in_stream(reply)
        if error:
            return refused_within(error, reply)
        stream = "The model's server answered with an event stream, which was not requested."
        return ModelAnswerInvalid(stream, transient=False)
    what = "a web page" if begin.startswith(b"<") else "something that is not JSON"
    return ModelAnswerInvalid(f"The model's server answered with {what}{_ending(reply)}")


def _error_in_stream(reply: Reply) -> Any:
    """The `error` of the first event, if there is one."""
    event = next((line[5:] for line in reply.body.splitlines() if line.startswith(b"data:")), b"")
    try:
        data = json.loads(event)
    except (ValueError, RecursionError):
        return None
    return data.get("error") if isinstance(data, dict) else None


def _ending(reply: Reply) -> str:
    """The end of a sentence: the server's reason after a colon, or just the full stop."""
    return f": {reply.reason}" if reply.reason else "."


def _choice(answer: dict[str, Any]) -> dict[str, Any] | None:
    """The first choice with a message or an error; None if there is none."""
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and (choice.get("error") or _message(choice)):
            return choice
    return None


def _message(choice: dict[str, Any]) -> dict[str, Any] | None:
    """The message, also where a stream (`delta`) or an old completion (`text`) has it."""
    message = choice.get("message") or choice.get("delta")
    if isinstance(message, dict):
        return message
    return {"content": choice["text"]} if isinstance(choice.get("text"), str) else None


def _text(content: Any, depth: int = 0) -> str:
    """The text of a content. Of a list of parts, all texts in their order."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and depth <= _MAX_DEPTH:
        return "".join(_text(part, depth + 1) for part in content)
    if isinstance(content, dict) and depth <= _MAX_DEPTH and content.get("type") not in _NO_ANSWER:
        return _text(content.get("text", content.get("value")), depth + 1)
    return ""


def _refusal_part(content: Any) -> str:
    parts = content if isinstance(content, list) else ()
    return "".join(_text(part.get("refusal")) for part in parts if isinstance(part, dict))


def _has_reasoning(message: dict[str, Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    thought = any(isinstance(part, dict) and part.get("type") in _NO_ANSWER for part in parts)
    return thought or any(
        message.get(key) for key in ("reasoning_content", "reasoning", "thinking")
    )


def _tool_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls as the server wrote them. An old `function_call` is put into today's form."""
    calls = message.get("tool_calls")
    old = message.get("function_call")
    found = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return found or ([{"type": "function", "function": old}] if isinstance(old, dict) else [])


def _name(value: Any) -> str | None:
    """A name from the server in one line, fit to be stored as a key; None if it is not text."""
    return one_line(value)[:MAX_NAME] or None if isinstance(value, str) else None
