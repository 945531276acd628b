"""Checks the `messages` that flows give to `context.complete`, and makes dicts of them.

`context.py` calls it before each model call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.providers.base import ModelRejected


def as_messages(given: Any) -> list[dict[str, Any]]:
    """A list of messages from a text (one message of the user), a mapping (one message), or a list.

    Objects with `model_dump` (such as a message of the `openai` package) count as mappings. Raises
    `ModelRejected`, which names the message and what is wrong with it.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if isinstance(given, Mapping) or hasattr(given, "model_dump"):
        given = [given]
    # Bytes are iterable, but their items are numbers.
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Iterable):
        raise _wrong(f"messages must be text or a list of messages, not {_kind(given)}")
    messages = [_message(message, f"messages[{place}]") for place, message in enumerate(given)]
    if not messages:
        raise _wrong("messages is empty")
    return messages


def _message(given: Any, place: str) -> dict[str, Any]:
    message = given.model_dump(exclude_none=True) if hasattr(given, "model_dump") else given
    if not isinstance(message, Mapping):
        example = '{"role": "user", "content": "..."}'
        raise _wrong(f"{place} must be a mapping such as {example}, not {_kind(given)}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise _wrong(f"{place} has no role, such as 'user', 'system' or 'assistant'")
    if not (content is None or isinstance(content, (str, list, tuple))):
        raise _wrong(f"{place}.content must be text or a list of parts, not {_kind(content)}")
    if content is None and role in ("user", "system", "developer", "tool"):
        raise _wrong(f"{place} has no content")
    return dict(message)


def texts_of(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """All text in the messages, for an estimate of their tokens. Pictures count nothing."""
    texts = []
    for message in messages:
        content = message.get("content")
        parts = [content] if isinstance(content, str) else content or ()
        texts += [part if isinstance(part, str) else _text_of_part(part) for part in parts]
    return texts


def _text_of_part(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) else ""


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _wrong(what: str) -> ModelRejected:
    return ModelRejected(f"The model was not called: {what}.")
