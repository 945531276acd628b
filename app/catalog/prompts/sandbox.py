"""Jinja's sandbox, made stricter: prompts read data and never Python objects, at bounded cost.

`compiler` compiles every prompt for the one environment `sandbox`. A name after a dot is looked up
in the data only; functions are called by name (`methods`); operators that can make something huge
spend its cost before they begin. `guard` puts the filters of `INTERNAL` into the compiled prompt.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.catalog.prompts import methods
from app.catalog.prompts.budget import (
    ITEM_COST,
    STEP_COST,
    RenderError,
    Uncalled,
    items,
    spend,
    text,
)
from app.catalog.prompts.filters import FILTERS, TESTS, compare
from app.catalog.prompts.text_filters import join

# The largest integer that a prompt may compute. The cost of a larger one is not counted in `work`.
MAX_BITS = 16_384

_LOOP_ATTRIBUTES = frozenset(
    [
        *("index", "index0", "revindex", "revindex0", "first", "last"),
        *("length", "depth", "depth0", "previtem", "nextitem"),
    ]
)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all prompts."""

    # The operators for which Jinja calls `call_binop`.
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`, which is `obj["attribute"]`: never an attribute of a Python object."""
        if isinstance(obj, LoopContext) and attribute in _LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        # `groupby` gives tuples with the names `grouper` and `list`.
        if isinstance(obj, tuple) and attribute in getattr(obj, "_fields", ()):
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            return obj[argument]  # raises Jinja's error, which names what is undefined
        if isinstance(obj, (dict, list, tuple, str)):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                pass
        # After the data: an object's own key `items` goes before the method.
        if isinstance(argument, str) and argument in methods.of(obj):
            return Uncalled(name=argument)
        return Undefined(obj=obj, name=argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        check = {
            "**": _check_power,
            "*": _check_product,
            "+": _check_sum,
            "%": _check_modulo,
        }.get(operator)
        if check:
            check(left, right)
        return self.binop_table[operator](left, right)


def _check_power(left: Any, right: Any) -> None:
    raise SecurityError("Powers are not allowed in a template.")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise RenderError("A computed number is too large.")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, list, tuple)) and isinstance(times, int):
            spend(len(value) * max(times, 0) * (1 if isinstance(value, str) else ITEM_COST))


def _check_sum(left: Any, right: Any) -> None:
    for value in (left, right):
        if isinstance(value, (str, list, tuple)):
            spend(len(value) * (1 if isinstance(value, str) else ITEM_COST))


def _check_modulo(left: Any, right: Any) -> None:
    # `"%999999999d" % 1` makes a huge text; the filter `format` has limits.
    if isinstance(left, str):
        raise SecurityError("Text cannot be formatted with % in a template. Use the filter format.")


@pass_context
def _print(context: Any, value: Any, spelled: str) -> str:
    """The text for `{{ spelled }}`."""
    try:
        return text(value)
    except RenderError as error:
        raise RenderError(f"{{{{ {spelled} }}}} cannot be written: {error}") from None


@pass_context
def _placeholder(context: Any, value: Any, name: str, fallback: str) -> str:
    """The text for `{name}`, or `fallback` if the run has no such value."""
    return fallback if isinstance(value, Undefined) else _print(context, value, name)


@pass_context
def _lookup(context: Any, name: str, fallback: str) -> str:
    """The same for a name that Jinja cannot spell: `{customer name}`, `{true}`."""
    return _placeholder(context, context.resolve(name), name, fallback)


@pass_context
def _iterate(context: Any, value: Any) -> list[Any]:
    """The items for a `for`."""
    values = items(value)
    spend(STEP_COST * len(values))
    return values


@pass_context
def _call(context: Any, value: Any, name: str, *args: Any, **options: Any) -> Any:
    return methods.call(value, name, *args, **options)


@pass_context
def _range(context: Any, bounds: Any) -> list[int]:
    return methods.call_range(*bounds)


@pass_context
def _concat(context: Any, parts: Any) -> str:
    return join(list(parts), "")


@pass_context
def _compare(context: Any, value: Any) -> Any:
    return compare(value)


@pass_context
def _slice(context: Any, value: Any, start: Any, stop: Any, step: Any) -> Any:
    source = value if isinstance(value, str) else items(value)
    spend(len(source))
    return source[start:stop:step]


# Filters that `guard` applies to parts of a prompt. No prompt can spell their names. They take the
# context, because Jinja computes filters without it while it compiles, outside of `work.bounded`.
INTERNAL = {
    "()print": _print,
    "()placeholder": _placeholder,
    "()lookup": _lookup,
    "()iterate": _iterate,
    "()call": _call,
    "()range": _range,
    "()concat": _concat,
    "()compare": _compare,
    "()slice": _slice,
}

# autoescape=False: a prompt is text, not HTML. cache_size=0: `compiler.compiled` caches templates.
sandbox = Sandbox(autoescape=False, keep_trailing_newline=True, optimized=False, cache_size=0)
sandbox.globals.clear()
sandbox.filters.clear()
sandbox.filters.update(FILTERS | INTERNAL)
sandbox.tests.clear()
sandbox.tests.update(TESTS)
