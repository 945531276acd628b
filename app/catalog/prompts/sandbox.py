"""Jinja's sandbox, made stricter: prompts see data, and never Python.

A name after a dot is looked up in the data alone; functions are called by name (`methods`), and
operators that can make something huge say what they cost before they begin.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.catalog.prompts import methods
from app.catalog.prompts.filters import FILTERS, TESTS, compare, join
from app.catalog.prompts.work import ITEM, STEP, RenderError, Uncalled, items, spend, text

MAX_BITS = 16_384
"""Of a whole number that is computed; larger ones could be neither computed nor written in a moment."""

_LOOP = frozenset(
    "index index0 revindex revindex0 first last length depth depth0 previtem nextitem".split()  # noqa: SIM905
)


class Sandbox(ImmutableSandboxedEnvironment):
    """The one environment of all prompts."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext) and attribute in _LOOP:
            return getattr(obj, attribute)
        if isinstance(obj, tuple) and attribute in getattr(obj, "_fields", ()):
            return getattr(obj, attribute)  # what `groupby` gives
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            return obj[argument]  # which says that it is not there
        if isinstance(obj, (dict, list, tuple, str)):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                pass
        if isinstance(argument, str) and argument in methods.of(obj):
            return Uncalled(name=argument)
        return Undefined(obj=obj, name=argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        check = {"**": _no_powers, "*": _product, "+": _sum, "%": _rest}.get(operator)
        if check:
            check(left, right)
        return self.binop_table[operator](left, right)


def _no_powers(left: Any, right: Any) -> None:
    raise SecurityError("Powers are not allowed in a template.")


def _product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise RenderError("A number becomes too large.")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, list, tuple)) and isinstance(times, int):
            spend(len(value) * max(times, 0) * (1 if isinstance(value, str) else ITEM))


def _sum(left: Any, right: Any) -> None:
    for value in (left, right):
        if isinstance(value, (str, list, tuple)):
            spend(len(value) * (1 if isinstance(value, str) else ITEM))


def _rest(left: Any, right: Any) -> None:
    if isinstance(left, str):
        raise SecurityError("Text is not formatted with % in a template.")


@pass_context
def _printed(context: Any, value: Any, spelled: str) -> str:
    """What `{{ spelled }}` becomes."""
    try:
        return text(value)
    except RenderError as error:
        raise RenderError(f"{{{{ {spelled} }}}} cannot be written: {error}") from None


@pass_context
def _placeholder(context: Any, value: Any, name: str, otherwise: str) -> str:
    """What `{name}` becomes."""
    return otherwise if isinstance(value, Undefined) else _printed(context, value, name)


@pass_context
def _given(context: Any, name: str, otherwise: str) -> str:
    """The same for a name that Jinja cannot spell."""
    return _placeholder(context, context.resolve(name), name, otherwise)


@pass_context
def _steps(context: Any, value: Any) -> list[Any]:
    """What a `for` walks through."""
    found = items(value)
    spend(STEP * len(found))
    return found


@pass_context
def _called(context: Any, value: Any, name: str, *args: Any, **options: Any) -> Any:
    return methods.call(value, name, *args, **options)


@pass_context
def _range(context: Any, bounds: Any) -> list[int]:
    return methods.call_range(*bounds)


@pass_context
def _concatenated(context: Any, parts: Any) -> str:
    return join(list(parts), "")


@pass_context
def _compared(context: Any, value: Any) -> Any:
    return compare(value)


@pass_context
def _cut(context: Any, value: Any, start: Any, stop: Any, step: Any) -> Any:
    whole = value if isinstance(value, str) else items(value)
    spend(len(whole))
    return whole[start:stop:step]


INTERNAL = {
    "()print": _printed,
    "()placeholder": _placeholder,
    "()given": _given,
    "()steps": _steps,
    "()call": _called,
    "()range": _range,
    "()concat": _concatenated,
    "()compare": _compared,
    "()cut": _cut,
}
"""Filters that a prompt cannot name: the compiler puts them where something has to be checked.

They take the context, so that Jinja computes none of them while it compiles.
"""

sandbox = Sandbox(autoescape=False, keep_trailing_newline=True, optimized=False, cache_size=0)
sandbox.globals.clear()
sandbox.filters.clear()
sandbox.filters.update(FILTERS | INTERNAL)
sandbox.tests.clear()
sandbox.tests.update(TESTS)
