"""The methods of texts, lists and objects that prompts can call, each of bounded cost.

`sandbox` calls them for `{{ name.upper() }}`. A prompt can only call the methods in this table, and
never has a function as a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Undefined
from jinja2.runtime import LoopContext

from app.catalog.prompts import filters, text_filters
from app.catalog.prompts.budget import ITEM_COST, RenderError, items, spend, text, weigh

MAX_RANGE = 100_000

# Their result is at most three times as long as the text: `upper` of "ΐ" has three characters.
_TEXT_METHODS = (
    *("capitalize", "casefold", "lower", "swapcase", "title", "upper", "strip", "lstrip", "rstrip"),
    *("removeprefix", "removesuffix", "startswith", "endswith", "find", "rfind", "index", "count"),
    *("isalnum", "isalpha", "isdecimal", "isdigit", "islower"),
    *("isnumeric", "isspace", "istitle", "isupper"),
    *("split", "rsplit", "splitlines", "partition", "rpartition"),
)


def _of_text(name: str) -> Callable[..., Any]:
    def call(value: str, *args: Any, **options: Any) -> Any:
        spend(3 * len(value))
        result = getattr(value, name)(*args, **options)
        if isinstance(result, (list, tuple)):
            spend(ITEM_COST * len(result))
            return list(result)
        return result

    return call


def _padded(name: str) -> Callable[..., Any]:
    def call(value: str, width: int, *args: Any) -> str:
        spend(len(value) + (max(width, 0) if isinstance(width, int) else 0))
        return str(getattr(value, name)(width, *args))

    return call


def _join(value: str, parts: Any) -> str:
    return text_filters.join(items(parts), value)


def _of_object(name: str) -> Callable[..., Any]:
    def call(value: dict[str, Any]) -> list[Any]:
        spend(ITEM_COST * len(value))
        return list(getattr(value, name)())

    return call


def _of_list(name: str) -> Callable[..., Any]:
    def call(value: list[Any], *args: Any) -> Any:
        weigh(value)  # the argument is compared with every item
        return getattr(value, name)(*args)

    return call


METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: {
        **{name: _of_text(name) for name in _TEXT_METHODS},
        **{name: _padded(name) for name in ("center", "ljust", "rjust", "zfill")},
        "join": _join,
        "replace": text_filters.replace,
    },
    dict: {
        **{name: _of_object(name) for name in ("items", "keys", "values")},
        "get": lambda value, key, default=None: value.get(key, default),
    },
    list: {name: _of_list(name) for name in ("count", "index")},
    LoopContext: {  # the variable `loop` of a `for`
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
    """`value.name(...)`. Raises `RenderError` if the value has no such method."""
    method = of(value).get(name)
    if method is None:
        raise RenderError(f"{_described(value)} has no function {name!r}.")
    return method(value, *args, **options)


def call_range(*bounds: Any) -> list[int]:
    """`range(...)`, as a list."""
    if not all(type(bound) is int for bound in bounds):
        raise RenderError("range needs integers.")
    numbers = range(*bounds)
    # Not len(): it fails for a range of more than 2^63 numbers.
    if abs(numbers.stop - numbers.start) > MAX_RANGE * abs(numbers.step):
        raise RenderError(f"range gives at most {MAX_RANGE} numbers.")
    return items(list(numbers))


def _described(value: Any) -> str:
    if isinstance(value, Undefined):
        return "An undefined value"
    if isinstance(value, (str, int, float, bool)):
        return f"{text(value)[:40]!r}"
    return "This value"
