"""JSON as the standard has it: no NaN, no key twice, no half of a character. Also within other text."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

_BRACKET = re.compile(r"[\[\]{}]")
_BEGINS_JSON = re.compile(
    r"\{\s*[\"}]|\[\s*(?:[\"\[{\]]|-?\d|(?:true|false|null|NaN|-?Infinity)\b)"
)


class NotJson(ValueError):
    """Why a text is no JSON."""


def loads(text: str) -> Any:
    """The value. Raises `NotJson`."""
    return _decoded(text.strip().removeprefix("\ufeff"), _decoder.decode)


def within(text: str, own_lines: bool = False) -> Any:
    """The one object or array that stands in a text. Raises `NotJson` where there is none, or several.

    With `own_lines` it must begin and end a line. Half of a broken value is never taken for a whole one:
    what stands in brackets that are no JSON is passed over as a whole.
    """
    found = [_decoded(text[begin:end], _decoder.decode) for begin, end in _spans(text, own_lines)]
    if not found:
        raise NotJson("there is none in it")
    if len(found) > 1:
        raise NotJson("there is more than one value in it")
    return found[0]


def begins(text: str) -> bool:
    """Whether a text is meant as one JSON array or object, from its first to its last character."""
    if not _BEGINS_JSON.match(text):
        return False
    end = _ends(text).get(0)
    return end is None or end == len(text)


def _spans(text: str, own_lines: bool) -> Iterator[tuple[int, int]]:
    """Where values stand, from and to. Raises `NotJson` for one that is cut off."""
    ends, after = _ends(text), 0
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
    """Whether it is a value, though perhaps one that is refused."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _ends(text: str) -> dict[int, int]:
    """Behind which position each bracket is closed; those in strings count, if they are not alone."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    in_string = _strings(text)
    for bracket in _BRACKET.finditer(in_string):
        if bracket[0] in "[{":
            opened.append(bracket.start())
        elif opened and in_string[opened[-1]] + bracket[0] in ("[]", "{}"):
            ends[opened.pop()] = bracket.end()
    return ends


_STRING = re.compile(r'(?<=[\[{,:])(\s*)"(?:[^"\\\n]|\\.)*"')


def _strings(text: str) -> str:
    """The text with the strings of JSON blanked, so that brackets in them are no brackets."""
    return _STRING.sub(lambda found: " " * len(found[0]), text)


def _decoded(text: str, decode: Any) -> Any:
    try:
        value = decode(text)
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotJson("there is half of a character in it (a lone surrogate)") from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except ValueError as error:
        raise NotJson(str(error)) from None
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson(f"the number {text[:20]} is too large")
    return value


def _refused(name: str) -> NoReturn:
    raise NotJson(f"{name} is no value of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        [(twice, _)] = counts.most_common(1)
        raise NotJson(f"the key {twice[:100]!r} stands in it twice")
    return value


_decoder = json.JSONDecoder(parse_float=_number, parse_constant=_refused, object_pairs_hook=_once)
