"""Detects monkey patches: what a flow replaced in the standard library. Called by `cleanup`.

A library that patches one function (as gevent does) may keep references to others, so patches are
not undone one by one: the process becomes unfit for another run.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

_WATCHED = (
    *(
        "builtins",
        "os",
        "io",
        "time",
        "random",
        "json",
        "json.encoder",
        "json.decoder",
        "pathlib",
        "tempfile",
    ),
    *("datetime", "decimal", "codecs", "pickle", "queue", "select", "selectors", "signal"),
)

_INSTRUMENTED = (
    *(
        "socket",
        "ssl",
        "threading",
        "subprocess",
        "multiprocessing",
        "logging",
        "http.client",
        "urllib.request",
    ),
    *("asyncio", "asyncio.events", "asyncio.base_events", "asyncio.tasks", "asyncio.runners"),
)
"""Watched without the methods of their classes: tracing libraries replace some of these, and call
the originals.
"""

_KINDS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
_METHODS = (types.FunctionType, classmethod, staticmethod, property)

_HOOKS = ("excepthook", "settrace", "setprofile")
"""Functions that are meant to be replaced. `state` resets them."""


class _Known:
    """The values of some names of a module or a class. All are compared at once, because this
    happens after each run.
    """

    def __init__(self, owner: str, names: Mapping[str, Any], values: Mapping[str, Any]):
        self._owner, self._names, self._values = owner, names, dict(values)
        self._get = itemgetter(*self._values)
        self._before = self._get(names)

    def first(self) -> str:
        """Returns the first name with another value now; an empty string if there is none."""
        try:
            if self._get(self._names) == self._before:
                return ""
        except KeyError:
            pass  # a name was removed
        changed = (
            name for name, value in self._values.items() if self._names.get(name) is not value
        )
        return f"{self._owner}.{next(changed, '')}"


class Patches:
    """To be made before the first run: remembers the contents of the modules loaded by then."""

    def __init__(self) -> None:
        modules = {
            name: sys.modules[name] for name in (*_WATCHED, *_INSTRUMENTED) if name in sys.modules
        }
        self._known = [_Known("sys.modules", sys.modules, modules)]
        for name, module in modules.items():
            self._known += _known(name, vars(module), _KINDS)
        for owner, its_class in dict(
            _classes(modules[name] for name in _WATCHED if name in modules)
        ).items():
            self._known += _known(owner, vars(its_class), _METHODS)

    def first(self) -> str:
        """Returns the name of one that was replaced; an empty string if there is none."""
        return next(filter(None, (known.first() for known in self._known)), "")


def _known(owner: str, names: Mapping[str, Any], kinds: tuple[type, ...]) -> list[_Known]:
    values = {
        name: value
        for name, value in names.items()
        if isinstance(value, kinds) and name not in _HOOKS
    }
    return [_Known(owner, names, values)] if values else []


def _classes(modules: Iterable[types.ModuleType]) -> Iterator[tuple[str, type]]:
    """Yields the classes that these modules define, each after its full name."""
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield f"{module.__name__}.{name}", value
