"""Notices functions and classes of the standard library that a flow has replaced.

Who replaces some of them (gevent, say) may hold on to others, so they are not put back one by one: the
process is unfit for another run.
"""

from __future__ import annotations

import sys
import types
from typing import Any

_WATCHED = (
    *("builtins", "os", "io", "time", "random", "json", "socket", "ssl", "select", "selectors"),
    *("threading", "queue", "subprocess", "multiprocessing", "signal", "tempfile", "pathlib"),
    *("asyncio", "asyncio.events", "asyncio.base_events", "asyncio.tasks", "asyncio.runners"),
    *("datetime", "decimal", "logging", "http.client", "urllib.request", "codecs", "pickle"),
)

_KINDS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)


class Patches:
    """Made at the birth of a process: knows what the modules hold that are loaded then."""

    def __init__(self) -> None:
        modules = [sys.modules[name] for name in _WATCHED if name in sys.modules]
        self._known: list[tuple[dict[str, Any], str, Any]] = [
            (vars(module), name, value)
            for module in modules
            for name, value in vars(module).items()
            if isinstance(value, _KINDS) and name not in _HOOKS
        ]

    def first(self) -> str:
        """The name of one that was replaced; empty where there is none."""
        for names, name, value in self._known:
            if names.get(name) is not value:
                return f"{names['__name__']}.{name}"
        return ""


_HOOKS = ("excepthook", "settrace", "setprofile")
"""Meant to be replaced, and put back by `state`."""
