"""Reads a request's body as strict JSON. Refuses what two parsers could read differently.

`app.api.parsing` calls it for every view that takes a body.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from flask import Request, current_app
from werkzeug.exceptions import RequestEntityTooLarge

from app.api.problems import Problem
from app.domain.errors import FieldError, InvalidRequest
from app.process.aside import aside

MAX_DEPTH = 64
MAX_VALUES = 100_000
MAX_FIELDS = 100
"""For the body and for its `config`: every unknown field costs a search for a similar name. The
`inputs` have a limit of their own.
"""

MAX_SHOWN_NAME = 256

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""Matches every string. A string that is never closed matches up to the end of the body, even after
a lone backslash: otherwise each quote in it would be tried as a new beginning, and a body of 1 MiB
would take hours.
"""

_BRACKETS = re.compile(rb"[\[\]{}]")


class BadJson(ValueError):
    """A text that is not JSON as this service reads it. `code` names the reason."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def read_json_object(request: Request) -> dict[str, Any]:
    """Returns the body's object.

    Raises a `Problem`: 415 for another media type or a compressed body, 413 for one that is too
    large, 400 for one that is not valid JSON or exceeds a limit above; and `InvalidRequest` for
    texts that are too long.
    """
    _check_headers(request)
    body = request.get_data(cache=False)
    if request.content_length is None and len(body) >= (request.max_content_length or 0):
        raise RequestEntityTooLarge  # Werkzeug cuts off a chunked body at the limit, silently
    return aside(len(body), check_body, body, current_app.config["MAX_TEXT_LENGTH"])


def check_body(body: bytes, max_text: int) -> dict[str, Any]:
    """Reads the JSON object in a body. Raises `Problem` and `InvalidRequest`, as above."""
    try:
        value = decode(body)
    except BadJson as error:
        raise Problem.of_body(error.code, str(error)) from None
    if not isinstance(value, dict):
        raise Problem.of_body("invalid_type", "The body must be a JSON object.")
    objects = (value, value.get("config"))
    if any(len(item) > MAX_FIELDS for item in objects if isinstance(item, dict)):
        message = f"The body and its config may have at most {MAX_FIELDS} fields each."
        raise Problem.of_body("too_many_values", message)
    if _may_contain_text_over(max_text, body):
        _check_texts(value, max_text)
    return value


def decode(text: bytes, name: str = "The body") -> Any:
    """Reads strict JSON. Raises `BadJson`; its message calls the text by `name`."""
    if text.startswith(b"\xef\xbb\xbf"):
        raise BadJson("invalid_encoding", f"{name} must be UTF-8 without a byte order mark.")
    _check_size(text, name)
    try:
        value = _DECODER.decode(text.decode())
        if b"\\u" in text:
            # An escape can produce half of a surrogate pair, which no UTF-8 can express.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise BadJson("invalid_encoding", f"{name} is not valid UTF-8.") from None
    except UnicodeEncodeError:
        message = f"{name} contains text that is not valid Unicode (a lone surrogate)."
        raise BadJson("invalid_text", message) from None
    except BadJson:
        raise
    except json.JSONDecodeError as error:
        message = f"{name} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise BadJson("invalid_json", message) from None
    except (ValueError, RecursionError):  # Python's limit on the digits of an integer
        message = f"{name} contains a number with too many digits."
        raise BadJson("invalid_json", message) from None
    return value


def _check_headers(request: Request) -> None:
    if (
        request.environ.get("CONTENT_TYPE") == "application/json"
        and "HTTP_CONTENT_ENCODING" not in request.environ
    ):
        return  # nearly every request; Werkzeug's parsing of the header is skipped for them
    if request.mimetype != "application/json":
        raise Problem(415, "unsupported_media_type", "The Content-Type must be application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        message = "Compressed bodies are not supported. Send the body without Content-Encoding."
        raise Problem(415, "unsupported_encoding", message)
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise Problem.of_body("invalid_encoding", "The body must be encoded in UTF-8.")


def _check_size(body: bytes, name: str) -> None:
    """Refuses bodies that are too deep or have too many values, before the parser sees them.

    A deep body would exhaust the parser's stack, one with many values the memory.
    """
    # A small body passes after two counts. Otherwise brackets in strings must not be counted.
    opened = body.count(b"{") + body.count(b"[")
    if opened <= MAX_DEPTH and body.count(b",") < MAX_VALUES:
        return
    bare = _STRINGS.sub(b"", body) if b"\\" in body else b"".join(body.split(b'"')[::2])
    if bare.count(b",") + bare.count(b"{") + bare.count(b"[") > MAX_VALUES:
        raise BadJson("too_many_values", f"{name} has more than {MAX_VALUES} values.")
    depth = 0
    for bracket in _BRACKETS.finditer(bare):
        depth += 1 if bracket[0] in (b"{", b"[") else -1
        if depth > MAX_DEPTH:
            raise BadJson("too_deep", f"{name} is nested deeper than {MAX_DEPTH} levels.")


def _may_contain_text_over(max_text: int, body: bytes) -> bool:
    """Compares the distances between quotes, which saves most large bodies the walk through all
    their values. An escaped quote would split a text, so bodies with a backslash need the walk.
    """
    return len(body) > max_text and (b"\\" in body or max(map(len, body.split(b'"'))) > max_text)


def _check_texts(value: dict[str, Any], max_text: int) -> None:
    message = f"Must have at most {max_text} characters."
    paths = _too_long(value, max_text, ())
    errors = [FieldError(".".join(path), message, "too_long") for path in paths]
    if errors:
        raise InvalidRequest(errors)


def _too_long(value: Any, max_text: int, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yields the paths of all texts and names that are longer than `max_text`."""
    if isinstance(value, str) and len(value) > max_text:
        yield path
    elif isinstance(value, dict):
        for name, content in value.items():
            if len(name) > max_text:
                yield (*path, f"{name[:MAX_SHOWN_NAME]}...")
            yield from _too_long(content, max_text, (*path, name[:MAX_SHOWN_NAME]))
    elif isinstance(value, list):
        for number, content in enumerate(value):
            yield from _too_long(content, max_text, (*path, str(number)))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(duplicate, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise BadJson("duplicate_key", f"Duplicate key {duplicate[:100]!r} in an object.")
    return found


def _constant(name: str) -> NoReturn:
    raise BadJson("invalid_json", f"{name} is not valid JSON.")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise BadJson("invalid_json", f"The number {text[:40]} is too large.")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
"""Built once, since building a decoder takes as long as reading a small body."""
