"""The filters and tests of Jinja that a prompt may use, each with what it costs.

Where Jinja's own is linear in what it is given, it is used, behind a check of its costs. Those that
make something huge out of something small, or that write Python's `repr`, are made again or left out.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable
from typing import Any

from jinja2 import pass_environment
from jinja2.filters import FILTERS as _JINJA
from jinja2.tests import TESTS as _ALL_TESTS

from app.catalog.prompts.work import ITEM, RenderError, items, spend, text, weigh

MAX_INDENT = 32
MAX_DIGITS = 100

_CONVERSION = re.compile(r"%(?:\(\w+\))?[-#0 +]*(\d*)(?:\.(\d*))?([a-zA-Z%])")

Function = Callable[..., Any]

_JINJA_TESTS: dict[str, Any] = dict(_ALL_TESTS)


def _with(
    function: Function, convert: Callable[[Any], Any], finish: Callable[[Any], Any]
) -> Function:
    """Jinja's filter with its value converted before, and its result after."""
    position = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        before, value, after = args[:position], args[position], args[position + 1 :]
        return finish(function(*before, convert(value), *after, **options))

    return wrapped


def _heavy(value: Any) -> list[Any]:
    """The items, for what compares them with each other."""
    found = items(value)
    spend(4 * weigh(found))
    return found


def _plain(value: Any) -> str:
    """Text without Jinja's mark for HTML, which would change what it is joined with."""
    spend(len(value))
    return str.__str__(value)


def _weighed(value: Any) -> Any:
    weigh(value)
    return value


def _listed(value: Any) -> list[Any]:
    result = list(value)
    spend(ITEM * len(result))
    return result


def _same(value: Any) -> Any:
    return value


def _size(value: Any, limit: int, name: str) -> int:
    if not isinstance(value, int) or not -limit <= value <= limit:
        raise RenderError(f"{name} must be a whole number of at most {limit}.")
    return value


def _width(value: Any) -> int:
    """A width that a text is filled up to: its cost is spent before."""
    if not isinstance(value, int):
        raise RenderError("A width must be a whole number.")
    spend(max(value, 0))
    return value


def center(value: Any, width: int = 80) -> str:
    return text(value).center(_width(width))


def replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    whole, old, new = text(value), text(old), text(new)
    times = -1 if count is None else count
    found = whole.count(old) if times < 0 else min(whole.count(old), times)
    spend(len(whole) + found * len(new))
    return whole.replace(old, new, times)


def join(values: list[Any], between: str) -> str:
    parts = [text(value) for value in values]
    spend(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


@pass_environment
def _join(environment: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    values = items(value)
    if attribute is not None:
        values = list(_JINJA["map"](_Alone(environment), values, attribute=attribute))
    return join(values, text(d))


class _Alone:
    """A context with an environment and nothing else, which is all that `map(attribute=)` looks at."""

    def __init__(self, environment: Any):
        self.environment = environment


def _indent(value: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    whole = text(value)
    margin = width if isinstance(width, str) else " " * _size(width, 1000, "The width of indent")
    spend(len(whole) + (whole.count("\n") + 1) * len(margin))
    return str(_JINJA["indent"](whole, margin, first, blank))


def _wordwrap(environment: Any, value: Any, width: int = 79, *rest: Any, **options: Any) -> str:
    whole = text(value)
    width = max(_size(width, 10**6, "The width of wordwrap"), 1)
    longest = max(map(len, whole.split()), default=0)
    between = text(options.get("wrapstring") or "\n")
    lines = len(whole) // width + whole.count("\n") + whole.count(" ") + 1
    spend(longest * longest // (512 * width) + lines * (ITEM + len(between)))
    return _plain(_JINJA["wordwrap"](environment, whole, width, *rest[:1], **options))


def _tojson(context: Any, value: Any, indent: int | None = None) -> str:
    weight = weigh(value)
    if indent:
        spend(weight * _size(indent, MAX_INDENT, "The indent of tojson"))
    return _plain(_JINJA["tojson"](context, value, indent))


def _format(value: Any, *args: Any, **options: Any) -> str:
    """`"%.2f"|format(x)`: no width over `MAX_DIGITS`, no `%r`, and data as it stands in a prompt."""
    pattern = text(value)
    for width, precision, kind in _CONVERSION.findall(pattern.replace("%%", "")):
        if (
            max(len(width), len(precision)) > 3
            or int(width or 0) > 1000
            or int(precision or 0) > MAX_DIGITS
        ):
            raise RenderError("A width in format is too large.")
        if kind not in "diouxXeEfFgGcs":
            raise RenderError(f"format has no conversion %{kind}.")
        spend(int(width or 0) + int(precision or 0))
    if re.search(r"%(?:\(\w+\))?[-#0 +]*(?:\d*\.)?\*", pattern):
        raise RenderError("A width in format is written as a number.")
    if options:
        return pattern % {name: _shown(option) for name, option in options.items()}
    return pattern % tuple(map(_shown, args))


def _shown(value: Any) -> Any:
    return value if type(value) in (int, float) else text(value)


def _round(value: Any, precision: int = 0, method: Any = "common") -> Any:
    return _JINJA["round"](value, _size(precision, MAX_DIGITS, "The precision of round"), method)


def _int(value: Any, default: int = 0, base: int = 10) -> Any:
    if isinstance(value, str) and len(value) > 1000:
        return default
    return _JINJA["int"](value, default, base)


def _sum(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    values = items(iterable)
    if attribute is not None:
        values = list(_JINJA["map"](_Alone(environment), values, attribute=attribute))
    if not all(isinstance(value, (int, float)) for value in [*values, start]):
        raise RenderError("sum adds numbers, and there is something else among them.")
    return sum(values, start)


def _batch(value: Any, linecount: int, fill_with: Any = None) -> list[Any]:
    spend(ITEM * max(linecount, 0))
    return _listed(_JINJA["batch"](items(value), linecount, fill_with))


def _slice(value: Any, slices: int, fill_with: Any = None) -> list[Any]:
    spend(ITEM * max(slices, 0))
    return _listed(_JINJA["slice"](items(value), slices, fill_with))


def _striptags(value: Any) -> str:
    """Without comments and tags, in one walk through the text; white space drawn together."""
    whole, kept, begin = text(value), [], 0
    while (opening := whole.find("<", begin)) >= 0:
        closing = "-->" if whole.startswith("<!--", opening) else ">"
        end = whole.find(closing, opening)
        if end < 0:
            break
        kept.append(whole[begin:opening])
        begin = end + len(closing)
        spend(ITEM)
    return html.unescape(" ".join("".join([*kept, whole[begin:]]).split()))


def _items(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        raise RenderError("items works on an object.")
    spend(ITEM * len(value))
    return list(value.items())


def _dictsort(value: Any, *args: Any, **options: Any) -> list[Any]:
    if not isinstance(value, dict):
        raise RenderError("dictsort works on an object.")
    spend(4 * weigh(value))
    return list(_JINJA["dictsort"](value, *args, **options))


def _count(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else len(items(value))


@pass_environment
def _attr(environment: Any, value: Any, name: str) -> Any:
    return environment.getattr(value, name)


def _of_text(name: str) -> Function:
    return _with(_JINJA[name], text, _plain)


def _of_items(name: str, convert: Callable[[Any], Any] = items) -> Function:
    return _with(_JINJA[name], convert, _listed)


FILTERS: dict[str, Function] = {
    **{
        name: _of_text(name)
        for name in ("capitalize", "lower", "title", "trim", "truncate", "upper")
    },
    **{name: _of_text(name) for name in ("e", "escape", "forceescape")},
    **{name: _of_items(name) for name in ("map", "select", "reject", "selectattr", "rejectattr")},
    **{name: _of_items(name, _heavy) for name in ("groupby", "sort", "unique")},
    **{name: _with(_JINJA[name], _heavy, _same) for name in ("max", "min")},
    **{name: _with(_JINJA[name], items, _same) for name in ("first", "last", "random")},
    **{name: _JINJA[name] for name in ("abs", "d", "default", "filesizeformat", "float")},
    "attr": _attr,
    "batch": _batch,
    "center": center,
    "count": _count,
    "dictsort": _dictsort,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "length": _count,
    "list": items,
    "replace": replace,
    "reverse": lambda value: text(value)[::-1] if isinstance(value, str) else items(value)[::-1],
    "round": _round,
    "safe": text,
    "slice": _slice,
    "string": text,
    "striptags": _striptags,
    "sum": functools.wraps(_JINJA["sum"])(_sum),
    "tojson": functools.wraps(_JINJA["tojson"])(_tojson),
    "urlencode": _with(_JINJA["urlencode"], _weighed, _plain),
    "wordcount": _with(_JINJA["wordcount"], text, _same),
    "wordwrap": functools.wraps(_JINJA["wordwrap"])(_wordwrap),
}


def _comparing(test: Function) -> Function:
    @functools.wraps(test)
    def compared(value: Any, other: Any) -> Any:
        compare(value), compare(other)
        return test(value, other)

    return compared


def compare(value: Any) -> Any:
    """The value, once the costs of comparing it with another one are spent."""
    if isinstance(value, str):
        spend(len(value) >> 4)
    elif isinstance(value, (list, tuple, dict)):
        weigh(value)
    return value


_COMPARING = (
    *("==", "eq", "equalto", "!=", "ne"),
    *(">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le"),
)

TESTS: dict[str, Function] = {
    **{
        name: test
        for name, test in _JINJA_TESTS.items()
        if name not in ("callable", "filter", "test")
    },
    **{name: _comparing(_JINJA_TESTS[name]) for name in (*_COMPARING, "in")},
    **{name: _with(_JINJA_TESTS[name], text, _same) for name in ("lower", "upper")},
}
