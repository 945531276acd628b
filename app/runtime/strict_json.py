"""Reads strict JSON: no NaN, no duplicate key, no lone surrogate. Finds JSON in other text, too.

`parsers.py` reads the answers of models with it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

_BRACKET = re.compile(r"[\[\]{}]")
# A bracket with what may follow it in JSON. "[see below]" in prose is not the beginning of JSON.
_BEGINS_JSON = re.compile(
    r"\{\s*[\"}]|\[\s*(?:[\"\[{\]]|-?\d|(?:true|false|null|NaN|-?Infinity)\b)"
)


class NotJson(ValueError):
    """A text is not strict JSON. The message is a clause that says why, for use after a colon."""


def loads(text: str) -> Any:
    """The value of a text that is JSON as a whole. Raises `NotJson`."""
    return _decoded(text.strip().removeprefix("\ufeff"), _decoder.decode)


def within(text: str, own_lines: bool = False) -> Any:
    """The only object or array in a text. Raises `NotJson` if there is none, or more than one.

    With `own_lines` it must begin at the beginning of a line and end at the end of one. Brackets
    whose content is not JSON are skipped as a whole, so a part of a broken value is never taken for
    the value.
    """
    found = [_decoded(text[begin:end], _decoder.decode) for begin, end in _spans(text, own_lines)]
    if not found:
        raise NotJson("it contains no JSON object or array")
    if len(found) > 1:
        raise NotJson("it contains more than one JSON value")
    return found[0]


def begins(text: str) -> bool:
    """Whether a text is meant to be one JSON array or object from beginning to end."""
    if not _BEGINS_JSON.match(text):
        return False
    end = _ends(text).get(0)
    return end is None or end == len(text)


def _spans(text: str, own_lines: bool) -> Iterator[tuple[int, int]]:
    """The begin and end of each value in a text. Raises `NotJson` for a value that is cut off."""
    ends = _ends(text)
    after = 0  # brackets before this position are inside of a value that was seen
    for bracket in _BRACKET.finditer(text):
        begin = bracket.start()
        if begin < after or bracket[0] in "]}":
            continue
        end = ends.get(begin)
        if own_lines and not _has_own_lines(text, begin, end):
            continue
        if end is None and _BEGINS_JSON.match(text, begin):
            raise NotJson("it is cut off")
        if end is None:
            continue
        after = end
        if _is_json(text[begin:end]):
            yield begin, end


def _has_own_lines(text: str, begin: int, end: int | None) -> bool:
    end = begin if end is None else end
    while begin and text[begin - 1] in " \t\r":
        begin -= 1
    while end < len(text) and text[end] in " \t\r":
        end += 1
    return (not begin or text[begin - 1] == "\n") and (end == len(text) or text[end] == "\n")


def _is_json(text: str) -> bool:
    """Whether Python can read it. If `loads` refuses it nevertheless, its error is reported."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _ends(text: str) -> dict[int, int]:
    """The position after the closing bracket, for each opening bracket that is closed."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    in_string = _strings(text)
    for bracket in _BRACKET.finditer(in_string):
        if bracket[0] in "[{":
            opened.append(bracket.start())
        elif opened and in_string[opened[-1]] + bracket[0] in ("[]", "{}"):
            ends[opened.pop()] = bracket.end()
    return ends


# Only where JSON has strings: an apostrophe or a quote in prose must not hide brackets.
_STRING = re.compile(r'(?<=[\[{,:])(\s*)"(?:[^"\\\n]|\\.)*"')


def _strings(text: str) -> str:
    """The text with blanks in place of JSON's strings, so that brackets in them do not count."""
    return _STRING.sub(lambda found: " " * len(found[0]), text)


def _decoded(text: str, decode: Any) -> Any:
    try:
        value = decode(text)
        # A lone surrogate may stand in the text itself, or come from an escape such as \ud800.
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotJson("it contains half of a character (a lone surrogate)") from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except ValueError as error:
        raise NotJson(str(error)) from None
    return value


def _number(text: str) -> float:
    # Python reads 1e999 as infinity, which could not be written as JSON again.
    value = float(text)
    if not math.isfinite(value):
        raise NotJson(f"the number {text[:20]} is too large")
    return value


def _refused(name: str) -> NoReturn:
    raise NotJson(f"{name} is not a JSON value")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        [(name, _)] = counts.most_common(1)
        raise NotJson(f"duplicate key {name[:100]!r}")
    return value


_decoder = json.JSONDecoder(
    parse_float=_number, parse_constant=_refused, object_pairs_hook=_without_duplicates
)
