"""Reads a request's body as strict JSON: what could be read in two ways is refused, with its
reason.
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
"""Of the body and of its `config`: each unknown one costs a look for its like. `inputs` has a limit
of its own.
"""

MAX_SHOWN_NAME = 256

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""One that is never closed ends with the body, also behind a lone backslash: else each quote in it
would be tried as a beginning, and a body of a MiB would take hours.
"""

_BRACKETS = re.compile(rb"[\[\]{}]")


class _Refused(ValueError):
    """Raised inside the parser's hooks: a code and a sentence."""


def read_json_object(request: Request) -> dict[str, Any]:
    """The body's object. Raises a `Problem`: 415 for another media type, 413, or 400 with what is
    wrong.
    """
    _check_headers(request)
    body = request.get_data(cache=False)
    if request.content_length is None and len(body) >= (request.max_content_length or 0):
        raise RequestEntityTooLarge  # a chunked body is cut off at the limit, without a word
    return aside(len(body), _parsed, body, current_app.config["MAX_TEXT_LENGTH"])


def _parsed(body: bytes, longest: int) -> dict[str, Any]:
    if body.startswith(b"\xef\xbb\xbf"):
        raise Problem.of_body(
            "invalid_encoding", "The body must be UTF-8 without a byte order mark."
        )
    _check_size(body)
    try:
        value = _DECODER.decode(body.decode())
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise Problem.of_body("invalid_encoding", "The body is not valid UTF-8.") from None
    except UnicodeEncodeError:
        raise Problem.of_body(
            "invalid_text", "The body holds text that is not valid Unicode (a lone surrogate)."
        ) from None
    except _Refused as error:
        raise Problem.of_body(*error.args) from None
    except json.JSONDecodeError as error:
        message = f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise Problem.of_body("invalid_json", message) from None
    except (ValueError, RecursionError):
        raise Problem.of_body("invalid_json", "The body holds a number that is too long.") from None
    if not isinstance(value, dict):
        raise Problem.of_body("invalid_type", "The body must be an object.")
    if any(
        len(each) > MAX_FIELDS for each in (value, value.get("config")) if isinstance(each, dict)
    ):
        raise Problem.of_body(
            "too_many_values", f"There are more than {MAX_FIELDS} fields; no request has so many."
        )
    if _may_hold_a_text_over(longest, body):
        _check_texts(value, longest)
    return value


def _check_headers(request: Request) -> None:
    if (
        request.environ.get("CONTENT_TYPE") == "application/json"
        and "HTTP_CONTENT_ENCODING" not in request.environ
    ):
        return  # as nearly every request has it
    if request.mimetype != "application/json":
        raise Problem(415, "unsupported_media_type", "The body must be application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(415, "unsupported_encoding", "A compressed body is not accepted.")
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise Problem.of_body("invalid_encoding", "The body must be UTF-8.")


def _check_size(body: bytes) -> None:
    """Depth and number of values, before the parser is let at them. Small bodies pass by counting
    alone.
    """
    opened = body.count(b"{") + body.count(b"[")
    if opened <= MAX_DEPTH and body.count(b",") < MAX_VALUES:
        return
    bare = _STRINGS.sub(b"", body) if b"\\" in body else b"".join(body.split(b'"')[::2])
    if bare.count(b",") + bare.count(b"{") + bare.count(b"[") > MAX_VALUES:
        raise Problem.of_body("too_many_values", f"The body holds more than {MAX_VALUES} values.")
    depth = 0
    for bracket in _BRACKETS.finditer(bare):
        depth += 1 if bracket[0] in (b"{", b"[") else -1
        if depth > MAX_DEPTH:
            raise Problem.of_body("too_deep", f"The body is nested deeper than {MAX_DEPTH}.")


def _may_hold_a_text_over(longest: int, body: bytes) -> bool:
    """A look at how far its quotes are apart, which spares most large bodies a walk through all
    their values.
    """
    return len(body) > longest and (b"\\" in body or max(map(len, body.split(b'"'))) > longest)


def _check_texts(value: dict[str, Any], longest: int) -> None:
    message = f"Must be at most {longest} characters."
    errors = [
        FieldError(".".join(place), message, "too_long") for place in _too_long(value, longest, ())
    ]
    if errors:
        raise InvalidRequest(errors)


def _too_long(value: Any, longest: int, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Where a text is longer than that; where it is a name, the place of what bears the name."""
    if isinstance(value, str) and len(value) > longest:
        yield place
    elif isinstance(value, dict):
        for name, content in value.items():
            if len(name) > longest:
                yield (*place, f"{name[:MAX_SHOWN_NAME]}...")
            yield from _too_long(content, longest, (*place, name[:MAX_SHOWN_NAME]))
    elif isinstance(value, list):
        for number, content in enumerate(value):
            yield from _too_long(content, longest, (*place, str(number)))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise _Refused("duplicate_key", f"The key {twice[:100]!r} stands twice in one object.")
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused("invalid_json", f"{name} is not JSON.")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Refused("invalid_json", f"The number {text[:40]} is too large.")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
"""Made once: to make one takes as long as to read a small body with it."""
