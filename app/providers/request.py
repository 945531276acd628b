"""Makes the request of a model call, in the ways in which a server may be asked for a stream.

`openai_provider.py` makes a `Request` for each call, before it uses the event loop: to encode many
messages takes long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from app.providers.answers import error_of
from app.providers.base import ModelRejected
from app.providers.reply import Reply

_OF_THE_REQUEST = {"extra_headers": "headers", "extra_query": "params"}
"""Options of the HTTP request, which are not in its body, and their names in the SDK's `post`."""

_UNKNOWN = (400, 415, 422)
"""The statuses with which servers refuse a field that they do not know, with any reason or none."""


class Way(Enum):
    """How the answer is asked for."""

    STREAM_WITH_USAGE = "stream with usage"
    STREAM = "stream"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `options` are those of the SDK, `seconds` is how long all its tries may take."""

    model: str
    options: dict[str, Any]
    seconds: float
    _body: bytes
    _stream_options: bytes

    def body(self, way: Way) -> bytes:
        """The body, as JSON."""
        if way is Way.WHOLE:
            return self._body
        options = self._stream_options if way is Way.STREAM_WITH_USAGE else b""
        return self._body[:-1] + b',"stream":true' + options + b"}"


def new_request(
    messages: Sequence[Mapping[str, Any]], model: str, options: dict[str, Any], seconds: float
) -> Request:
    """Raises `ModelRejected` for what cannot be sent. `seconds` is MODEL_TIMEOUT."""
    seconds = _time_limit(options.pop("timeout", None), seconds)
    of_request = {
        _OF_THE_REQUEST[name]: options.pop(name) for name in _OF_THE_REQUEST if name in options
    }
    extra = options.pop("extra_body", None) or {}
    if not isinstance(extra, Mapping):
        raise ModelRejected("The model was not called: extra_body must be a mapping.")
    body = {"messages": list(messages), "model": model, **options, **extra}
    if body.pop("stream", None):
        raise ModelRejected(
            "The model was not called: extra_body cannot set `stream`. "
            "Use context.complete(..., stream=True)."
        )
    own = body.pop("stream_options", None) or {}
    if not isinstance(own, Mapping):
        raise ModelRejected("The model was not called: stream_options must be a mapping.")
    stream_options = b',"stream_options":' + _json({**own, "include_usage": True})
    return Request(model, of_request, seconds, _json(body), stream_options)


def simpler_way(way: Way, reply: Reply) -> Way | None:
    """How to ask a server that has refused to be asked like this; None if it has not.

    Some servers do not know `stream_options`, and a few do not stream at all. Not all of them say
    so. To ask once more costs little, and no run fails only because somebody follows it.
    """
    if way is Way.WHOLE:
        return None
    if reply.is_success:
        return Way.WHOLE if "stream" in str(error_of(reply)).lower() else None
    body = reply.body.lower()
    if way is Way.STREAM_WITH_USAGE and (b"stream_options" in body or b"include_usage" in body):
        return Way.STREAM
    return Way.WHOLE if b"stream" in body or reply.status in _UNKNOWN else None


def _json(value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError:
        raise ModelRejected(
            "The model was not called: a text is not valid Unicode (a lone surrogate)."
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelRejected(f"The model was not called: JSON cannot hold it: {error}.") from None


def _time_limit(wanted: Any, limit: float) -> float:
    if wanted is None:
        return limit
    is_number = isinstance(wanted, (int, float)) and not isinstance(wanted, bool)
    if not is_number or not wanted > 0 or not math.isfinite(wanted):
        raise ModelRejected(
            "The model was not called: timeout must be a number of seconds above 0."
        )
    return min(float(wanted), limit)
