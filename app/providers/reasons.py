"""Finds the reason that a server gives for an error, in whatever form, and makes one line of it.

`reply.py` and `faults.py` call it for the messages of `ModelError`s, which users read: secrets are
masked, and the length is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from app.telemetry.masking import MASK, mask

MAX_CHARACTERS = 500
"""The most characters of a reason in a message that people read."""

_MAX_READ = 20_000
"""How many characters of a body are read. No reason is longer, and more would cost time."""

_MAX_DEPTH = 6
"""Levels of objects that are searched: gateways wrap the errors of the servers behind them."""

_KEYS = (
    "error",
    "errors",
    "message",
    "detail",
    "details",
    "msg",
    "error_msg",
    "error_message",
    "error_description",
)
"""The keys under which servers put reasons, the most likely first."""

_FALLBACKS = ("text", "title", "reason", "raw", "type", "code", "status", "error_code")
"""Keys with less helpful values, read only if none of `_KEYS` is there."""

_QUOTED_REASON = re.compile(
    rf'"(?:{"|".join(_KEYS)})"\s*:\s*("(?:[^"\\]|\\["\\/bfnrt]|\\u[0-9a-f]{{4}})+")', re.I
)

# White space, control characters, and the mark for what could not be decoded.
_NO_TEXT = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufffd]+")


def reason_in(body: bytes, encoding: str | None = None, secret: str | None = None) -> str:
    """The reason in a body: masked, one line of at most `MAX_CHARACTERS`. Empty if there is none.

    `secret` is masked too, in case the server repeats it.
    """
    text = _decoded(body, encoding)
    try:
        reason = "; ".join(_reasons(json.loads(text)))
    except (ValueError, RecursionError):
        reason = _in_broken_json(text) or (_without_tags(text) if "<" in text else text)
    return one_line(reason, secret)


def reason_of(value: Any, secret: str | None = None) -> str:
    """The same for a part of a body that was parsed as JSON."""
    return one_line("; ".join(_reasons(value)), secret)


def one_line(text: str, secret: str | None = None) -> str:
    """A text from outside, fit for a message: masked, in one line of at most `MAX_CHARACTERS`."""
    # Masked before the cut, because half a secret would not be recognized as one.
    text = text[:_MAX_READ]
    text = mask(text.replace(secret, MASK) if secret else text)
    text = _NO_TEXT.sub(" ", text).strip().encode(errors="replace").decode()
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _decoded(body: bytes, encoding: str | None) -> str:
    try:
        return body.decode(encoding or json.detect_encoding(body), errors="replace")
    except (LookupError, ValueError):  # an unknown encoding, or one that is not for text
        return body.decode(errors="replace")


def _reasons(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts that say what is wrong, from the outermost object to the innermost."""
    if depth > _MAX_DEPTH or value is None or isinstance(value, bool):
        return
    if isinstance(value, (str, int, float)):
        yield str(value)
    elif isinstance(value, list):
        for entry in value[:3]:
            yield from _reasons(entry, depth + 1)
    elif isinstance(value, dict):
        yield from _reasons_of_object(value, depth)


def _reasons_of_object(value: dict[str, Any], depth: int) -> Iterator[str]:
    place = value.get("loc")  # FastAPI puts the path of the field beside the reason
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    for keys in (_KEYS, _FALLBACKS):
        found = [text for key in keys for text in _reasons(value.get(key), depth + 1)]
        if found:
            # `dict.fromkeys` leaves out repeats: many servers send the same text under two keys.
            yield from ([f"{where}: {found[0]}", *found[1:]] if where else dict.fromkeys(found))
            break
    metadata = value.get("metadata")  # OpenRouter puts the error of the server behind it there
    if isinstance(metadata, dict):
        yield from _reasons(metadata.get("raw"), depth + 1)


def _in_broken_json(text: str) -> str:
    """The first reason in an object that was cut off."""
    found = _QUOTED_REASON.search(text[:_MAX_READ]) if text.lstrip().startswith("{") else None
    return str(json.loads(found[1], strict=False)) if found else ""


class _Text(HTMLParser):
    """Collects the text of a web page that a reader would see."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _without_tags(text: str) -> str:
    reader = _Text()
    reader.feed(text[:_MAX_READ])
    return " ".join(reader.parts)
