"""Jinja's filters for text, rewritten where a short prompt could make them slow or huge.

`filters` puts them into the table of the sandbox. Each one spends its cost before it begins.
"""

from __future__ import annotations

import functools
import html
import re
from typing import Any

from jinja2 import pass_environment
from jinja2.filters import FILTERS as _JINJA

from app.catalog.prompts.budget import ITEM_COST, RenderError, items, spend, text, weigh

MAX_INDENT = 32
MAX_DIGITS = 100
MAX_MARGIN = 1000
MAX_WRAP_WIDTH = 10**6

# One conversion of %-formatting: its width, its precision and its letter.
_CONVERSION = re.compile(r"%(?:\(\w+\))?[-#0 +]*(\d*)(?:\.(\d*))?([a-zA-Z%])")
_STAR = re.compile(r"%(?:\(\w+\))?[-#0 +]*(?:\d*\.)?\*")


def plain_text(value: Any) -> str:
    """Text without Jinja's `Markup`, which would escape whatever it is joined with later."""
    spend(len(value))
    return str.__str__(value)


def bounded_integer(value: Any, limit: int, name: str) -> int:
    """The value, if it is an integer from `-limit` to `limit`. `name` begins the error message."""
    if not isinstance(value, int) or not -limit <= value <= limit:
        raise RenderError(f"{name} must be an integer of at most {limit}.")
    return value


def center(value: Any, width: int = 80) -> str:
    source = text(value)
    if not isinstance(width, int):
        raise RenderError("A width must be an integer.")
    spend(max(width, 0))
    return source.center(width)


def replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    source, old, new = text(value), text(old), text(new)
    limit = -1 if count is None else count
    matches = source.count(old)  # for an empty `old`: one before and after each character
    replaced = matches if limit < 0 else min(matches, limit)
    spend(len(source) + replaced * len(new))
    return source.replace(old, new, limit)


def join(values: list[Any], separator: str) -> str:
    parts = [text(value) for value in values]
    spend(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


@pass_environment
def join_filter(environment: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    return join(attributes(environment, items(value), attribute), text(d))


def attributes(environment: Any, values: list[Any], attribute: Any) -> list[Any]:
    """The attribute of each value, or the values themselves if `attribute` is None."""
    if attribute is None:
        return values
    return list(_JINJA["map"](_Context(environment), values, attribute=attribute))


class _Context:
    """The only part of a context that `map(attribute=...)` reads."""

    def __init__(self, environment: Any):
        self.environment = environment


def indent(value: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    source = text(value)
    margin = width if isinstance(width, str) else _spaces(width)
    spend(len(source) + (source.count("\n") + 1) * len(margin))
    return str(_JINJA["indent"](source, margin, first, blank))


def _spaces(width: Any) -> str:
    return " " * bounded_integer(width, MAX_MARGIN, "The width of indent")


@functools.wraps(_JINJA["wordwrap"])  # with its mark that it takes the environment
def wordwrap(environment: Any, value: Any, width: int = 79, *rest: Any, **options: Any) -> str:
    source = text(value)
    width = max(bounded_integer(width, MAX_WRAP_WIDTH, "The width of wordwrap"), 1)
    separator = text(options.get("wrapstring") or "\n")
    longest = max(map(len, source.split()), default=0)
    lines = len(source) // width + source.count("\n") + source.count(" ") + 1
    # textwrap cuts a long word off piece by piece, copying the rest each time: quadratic in the
    # word, at memory speed (about 512 characters in the time of one).
    spend(longest * longest // (512 * width) + lines * (ITEM_COST + len(separator)))
    # Only `break_long_words` may follow by position; a wrapstring there would not be counted.
    return plain_text(_JINJA["wordwrap"](environment, source, width, *rest[:1], **options))


@functools.wraps(_JINJA["tojson"])
def tojson(context: Any, value: Any, indent: int | None = None) -> str:
    weight = weigh(value)
    if indent:
        spend(weight * bounded_integer(indent, MAX_INDENT, "The indent of tojson"))
    return plain_text(_JINJA["tojson"](context, value, indent))


def format_filter(value: Any, *args: Any, **options: Any) -> str:
    """`"%.2f"|format(x)`, without huge widths, and without `%r`, which shows Python's objects."""
    pattern = text(value)
    for width, precision, letter in _CONVERSION.findall(pattern.replace("%%", "")):
        # The lengths come first: int() of a very long number is slow itself.
        is_long = max(len(width), len(precision)) > 3
        if is_long or int(width or 0) > MAX_MARGIN or int(precision or 0) > MAX_DIGITS:
            raise RenderError("A width in format is too large.")
        if letter not in "diouxXeEfFgGcs":
            raise RenderError(f"format has no conversion %{letter}.")
        spend(int(width or 0) + int(precision or 0))
    if _STAR.search(pattern):  # `%*d` takes its width from the values
        raise RenderError("A width in format must be written as a number.")
    if options:
        return pattern % {name: _format_argument(option) for name, option in options.items()}
    return pattern % tuple(map(_format_argument, args))


def _format_argument(value: Any) -> Any:
    return value if type(value) in (int, float) else text(value)


def striptags(value: Any) -> str:
    """Removes HTML comments and tags in one pass, where Jinja's own takes quadratic time."""
    source = text(value)
    kept = []
    begin = 0
    while (opening := source.find("<", begin)) >= 0:
        closing = "-->" if source.startswith("<!--", opening) else ">"
        end = source.find(closing, opening)
        if end < 0:
            break
        kept.append(source[begin:opening])
        begin = end + len(closing)
        spend(ITEM_COST)
    words = "".join([*kept, source[begin:]]).split()
    return html.unescape(" ".join(words))
