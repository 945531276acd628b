"""The filters (`name|upper`) and tests (`name is defined`) of Jinja that prompts can use.

`sandbox` installs the tables `FILTERS` and `TESTS`. All have a bounded cost: Jinja's own function
is used where its time is linear in its value, behind a conversion that spends the cost. Those that
could make a huge result from a small value, or that show Python's `repr`, are rewritten here and in
`text_filters`, or left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jinja2 import pass_environment
from jinja2.filters import FILTERS as _JINJA
from jinja2.tests import TESTS as _ALL_TESTS

from app.catalog.prompts import text_filters
from app.catalog.prompts.budget import ITEM_COST, RenderError, items, spend, text, weigh
from app.catalog.prompts.text_filters import MAX_DIGITS, bounded_integer, plain_text

# int() is quadratic in the digits, and Python itself refuses more than 4300 of them.
MAX_INT_CHARACTERS = 1000

Function = Callable[..., Any]

_JINJA_TESTS: dict[str, Any] = dict(_ALL_TESTS)


def _converted(
    function: Function, convert: Callable[[Any], Any], finish: Callable[[Any], Any]
) -> Function:
    """Jinja's filter, with `convert` applied to its value before, and `finish` to its result."""
    # A filter that takes Jinja's context or environment has its value in second place.
    position = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        before, value, after = args[:position], args[position], args[position + 1 :]
        return finish(function(*before, convert(value), *after, **options))

    return wrapped


def _compared_items(value: Any) -> list[Any]:
    """The items, for a filter that compares them with each other."""
    values = items(value)
    spend(4 * weigh(values))  # sorting compares each item several times
    return values


def _weighed(value: Any) -> Any:
    weigh(value)
    return value


def _as_list(value: Any) -> list[Any]:
    """A list in place of the generator that many of Jinja's filters return, whose cost is known."""
    result = list(value)
    spend(ITEM_COST * len(result))
    return result


def _unchanged(value: Any) -> Any:
    return value


def _round(value: Any, precision: int = 0, method: Any = "common") -> Any:
    digits = bounded_integer(precision, MAX_DIGITS, "The precision of round")
    return _JINJA["round"](value, digits, method)


def _int(value: Any, default: int = 0, base: int = 10) -> Any:
    if isinstance(value, str) and len(value) > MAX_INT_CHARACTERS:
        return default
    return _JINJA["int"](value, default, base)


@functools.wraps(_JINJA["sum"])  # with its mark that it takes the environment
def _sum(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    values = text_filters.attributes(environment, items(iterable), attribute)
    # Adding texts or lists would be quadratic, and never counted.
    if not all(isinstance(value, (int, float)) for value in [*values, start]):
        raise RenderError("sum needs a list of numbers.")
    return sum(values, start)


def _batch(value: Any, linecount: int, fill_with: Any = None) -> list[Any]:
    spend(ITEM_COST * max(linecount, 0))
    return _as_list(_JINJA["batch"](items(value), linecount, fill_with))


def _slice(value: Any, slices: int, fill_with: Any = None) -> list[Any]:
    spend(ITEM_COST * max(slices, 0))
    return _as_list(_JINJA["slice"](items(value), slices, fill_with))


def _items(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        raise RenderError("items needs an object.")
    spend(ITEM_COST * len(value))
    return list(value.items())


def _dictsort(value: Any, *args: Any, **options: Any) -> list[Any]:
    if not isinstance(value, dict):
        raise RenderError("dictsort needs an object.")
    spend(4 * weigh(value))
    return list(_JINJA["dictsort"](value, *args, **options))


def _count(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else len(items(value))


@pass_environment
def _attr(environment: Any, value: Any, name: str) -> Any:
    # Jinja's own reads attributes of Python objects, which the sandbox's `getattr` never does.
    return environment.getattr(value, name)


def _reverse(value: Any) -> Any:
    return text(value)[::-1] if isinstance(value, str) else items(value)[::-1]


def _of_text(name: str) -> Function:
    return _converted(_JINJA[name], text, plain_text)


def _of_items(name: str, convert: Callable[[Any], Any] = items) -> Function:
    return _converted(_JINJA[name], convert, _as_list)


FILTERS: dict[str, Function] = {
    **{
        name: _of_text(name)
        for name in ("capitalize", "lower", "title", "trim", "truncate", "upper")
    },
    **{name: _of_text(name) for name in ("e", "escape", "forceescape")},
    **{name: _of_items(name) for name in ("map", "select", "reject", "selectattr", "rejectattr")},
    **{name: _of_items(name, _compared_items) for name in ("groupby", "sort", "unique")},
    **{name: _converted(_JINJA[name], _compared_items, _unchanged) for name in ("max", "min")},
    **{name: _converted(_JINJA[name], items, _unchanged) for name in ("first", "last", "random")},
    **{name: _JINJA[name] for name in ("abs", "d", "default", "filesizeformat", "float")},
    "attr": _attr,
    "batch": _batch,
    "center": text_filters.center,
    "count": _count,
    "dictsort": _dictsort,
    "format": text_filters.format_filter,
    "indent": text_filters.indent,
    "int": _int,
    "items": _items,
    "join": text_filters.join_filter,
    "length": _count,
    "list": items,
    "replace": text_filters.replace,
    "reverse": _reverse,
    "round": _round,
    "safe": text,
    "slice": _slice,
    "string": text,
    "striptags": text_filters.striptags,
    "sum": _sum,
    "tojson": text_filters.tojson,
    "urlencode": _converted(_JINJA["urlencode"], _weighed, plain_text),
    "wordcount": _converted(_JINJA["wordcount"], text, _unchanged),
    "wordwrap": text_filters.wordwrap,
}


def compare(value: Any) -> Any:
    """The value, after the cost of comparing it with another one is spent."""
    if isinstance(value, str):
        spend(len(value) >> 4)  # the processor compares many characters at a time
    elif isinstance(value, (list, tuple, dict)):
        weigh(value)
    return value


def _comparing(test: Function) -> Function:
    @functools.wraps(test)
    def compared(value: Any, other: Any) -> Any:
        compare(value)
        compare(other)
        return test(value, other)

    return compared


_COMPARISONS = (
    *("==", "eq", "equalto", "!=", "ne"),
    *(">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le"),
)

# They ask about Python's objects and Jinja's tables, which prompts do not see.
_HIDDEN_TESTS = ("callable", "filter", "test")

TESTS: dict[str, Function] = {
    **{name: test for name, test in _JINJA_TESTS.items() if name not in _HIDDEN_TESTS},
    **{name: _comparing(_JINJA_TESTS[name]) for name in (*_COMPARISONS, "in")},
    **{name: _converted(_JINJA_TESTS[name], text, _unchanged) for name in ("lower", "upper")},
}
