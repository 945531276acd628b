"""The methods of texts, lists and objects that a prompt may call, each with what it costs.

They are called by name and never fetched, so that no function is ever a value in a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2.runtime import LoopContext

from app.catalog.prompts import filters
from app.catalog.prompts.work import ITEM, RenderError, items, spend, text, weigh

_PLAIN_TEXT = (
    *("capitalize", "casefold", "lower", "swapcase", "title", "upper", "strip", "lstrip", "rstrip"),
    *("removeprefix", "removesuffix", "startswith", "endswith", "find", "rfind", "index", "count"),
    *(
        "isalnum",
        "isalpha",
        "isdecimal",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
    ),
    *("split", "rsplit", "splitlines", "partition", "rpartition"),
)
"""Whose result is never longer than the text, or three times as long (`upper` of "ŉ")."""


def _plain(name: str) -> Callable[..., Any]:
    def call(value: str, *args: Any, **options: Any) -> Any:
        spend(3 * len(value))
        found = getattr(value, name)(*args, **options)
        if isinstance(found, (list, tuple)):
            spend(ITEM * len(found))
            return list(found)
        return found

    return call


def _filled(name: str) -> Callable[..., Any]:
    def call(value: str, width: int, *args: Any) -> str:
        spend(len(value) + (max(width, 0) if isinstance(width, int) else 0))
        return str(getattr(value, name)(width, *args))

    return call


def _join(value: str, parts: Any) -> str:
    return filters.join(items(parts), value)


def _entries(name: str) -> Callable[..., Any]:
    def call(value: dict[str, Any]) -> list[Any]:
        spend(ITEM * len(value))
        return list(getattr(value, name)())

    return call


def _searched(name: str) -> Callable[..., Any]:
    def call(value: list[Any], *args: Any) -> Any:
        weigh(value)
        return getattr(value, name)(*args)

    return call


METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: {
        **{name: _plain(name) for name in _PLAIN_TEXT},
        **{name: _filled(name) for name in ("center", "ljust", "rjust", "zfill")},
        "join": _join,
        "replace": filters.replace,
    },
    dict: {
        **{name: _entries(name) for name in ("items", "keys", "values")},
        "get": lambda value, key, default=None: value.get(key, default),
    },
    list: {name: _searched(name) for name in ("count", "index")},
    LoopContext: {
        "cycle": lambda loop, *args: loop.cycle(*args),
        "changed": lambda loop, *args: loop.changed(*[filters.compare(value) for value in args]),
    },
}

NAMES = frozenset(name for methods in METHODS.values() for name in methods)


def of(value: Any) -> dict[str, Callable[..., Any]]:
    """The methods of a value, by name."""
    kind = list if isinstance(value, tuple) else type(value)
    return METHODS.get(kind, {})


def call(value: Any, name: str, *args: Any, **options: Any) -> Any:
    """`value.name(...)`. Raises `RenderError` where there is no such method."""
    method = of(value).get(name)
    if method is None:
        raise RenderError(f"{name!r} is no function of {_named(value)}.")
    return method(value, *args, **options)


def call_range(*bounds: Any) -> list[int]:
    """`range(...)`, as a list."""
    if not all(type(bound) is int for bound in bounds):
        raise RenderError("range works on whole numbers.")
    numbers = range(*bounds)
    if abs(numbers.stop - numbers.start) > MAX_RANGE * abs(numbers.step):
        raise RenderError(f"range gives at most {MAX_RANGE} numbers.")
    return items(list(numbers))


MAX_RANGE = 100_000


def _named(value: Any) -> str:
    return "a value that nobody gave" if not text_like(value) else f"{text(value)[:40]!r}"


def text_like(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool))
