"""Tells whether an entrypoint is asynchronous, from its source, without running it.

`agents` asks it for a Python flow that names no `isolation`: an asynchronous one only waits, so it
runs in a thread's event loop and not in a process of its own. What the source does not show (a
graph that a library builds, say) counts as not asynchronous.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from app.catalog.entrypoints import tree_of

MAX_STEPS = 20
"""Names to follow from the entrypoint to what it is. More of them are a circle."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def only_waits(entrypoint: str, folder: Path) -> bool:
    """Whether `entrypoint` is an `async` function, or an object whose `.ainvoke()` or call is.

    `folder` is the agent's: `file.py:name` is a file in it, `package.module:name` is not.
    """
    source, _, name = entrypoint.rpartition(":")
    file = folder / source if source.endswith(".py") else _file_of(source)
    with contextlib.suppress(RecursionError):  # nested too deeply, on purpose perhaps
        code = _Code.read(file) if file else None
        return code is not None and code.is_async(name, MAX_STEPS)
    return False


def _file_of(module: str) -> Path | None:
    """The source of an installed module. Imports nothing, not even the packages around it."""
    path: list[str] | None = None
    # A package without `__init__.py` has a search path that needs its parent to be imported.
    with contextlib.suppress(Exception):
        for name in itertools.accumulate(module.split("."), "{}.{}".format):
            spec = PathFinder.find_spec(name, path)
            if spec is None:
                return None
            origin, path = spec.origin, list(spec.submodule_search_locations or ())
        return Path(origin) if origin and origin.endswith(".py") else None
    return None


@dataclass(frozen=True, slots=True)
class _Code:
    """The syntax tree of one file, and what its names stand for."""

    file: Path
    tree: ast.Module

    @classmethod
    def read(cls, file: Path) -> _Code | None:
        """None for what cannot be read: `entrypoints` reports that."""
        tree = tree_of(file)
        return None if tree is None else cls(file, tree)

    def is_async(self, name: str, steps: int) -> bool:
        """Whether each of its definitions is asynchronous (`if` and `try` may give it several)."""
        found = [self._is_async(definition, name, steps) for definition in self._definitions(name)]
        return bool(found) and all(found)

    def _definitions(self, name: str) -> Iterator[ast.AST]:
        """What the top level gives this name: functions, classes, imports, assigned values."""
        for statement in _top_level(self.tree.body):
            if isinstance(statement, _Function | ast.ClassDef) and statement.name == name:
                yield statement
            elif isinstance(statement, ast.ImportFrom):
                if any((alias.asname or alias.name) == name for alias in statement.names):
                    yield statement
            elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                )
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    yield statement.value

    def _is_async(self, found: ast.AST, name: str, steps: int) -> bool:
        if steps <= 0:
            return False
        if isinstance(found, _Function):
            return _is_coroutine_function(found)
        if isinstance(found, ast.Name):  # run = other
            return self.is_async(found.id, steps - 1)
        if isinstance(found, ast.ImportFrom):
            return self._is_async_elsewhere(found, name, steps - 1)
        if isinstance(found, ast.Call):
            return self._makes_async(found, steps - 1)
        return False

    def _makes_async(self, call: ast.Call, steps: int) -> bool:
        """For `run = Flow()` with a class of this file, and `run = partial(other, ...)`."""
        called = call.func.attr if isinstance(call.func, ast.Attribute) else None
        if isinstance(call.func, ast.Name):
            called = call.func.id
            for found in self._definitions(called):
                if isinstance(found, ast.ClassDef):
                    return self._is_async_object(found, steps)
        if called == "partial" and call.args:
            return self._is_async(call.args[0], "", steps)
        return False

    def _is_async_object(self, found: ast.ClassDef, steps: int) -> bool:
        """The same order as in the runtime: `.ainvoke()` goes before `.invoke()` and a call."""
        methods = self._methods(found, steps)
        if "ainvoke" in methods:
            return "invoke" in methods or _is_coroutine_function(methods["ainvoke"])
        call = methods.get("__call__")
        return "invoke" not in methods and call is not None and _is_coroutine_function(call)

    def _methods(self, found: ast.ClassDef, steps: int) -> dict[str, _Function]:
        """Those of the class and of its bases in this file, by name."""
        methods: dict[str, _Function] = {}
        if steps > 0:
            for base in reversed(found.bases):
                for above in self._definitions(base.id) if isinstance(base, ast.Name) else ():
                    if isinstance(above, ast.ClassDef):
                        methods |= self._methods(above, steps - 1)
        own = [node for node in _top_level(found.body) if isinstance(node, _Function)]
        return methods | {node.name: node for node in own}

    def _is_async_elsewhere(self, imported: ast.ImportFrom, name: str, steps: int) -> bool:
        """For `from .other import run`, with a file beside this one."""
        if imported.level != 1 or not imported.module or "." in imported.module:
            return False
        original = next(
            alias.name for alias in imported.names if (alias.asname or alias.name) == name
        )
        other = _Code.read(self.file.parent / f"{imported.module}.py")
        return other is not None and other.is_async(original, steps)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, and those inside `if`, `try`, `with` and loops, but not inside functions."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
            inner = [node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.stmt)]
            handlers = getattr(statement, "handlers", [])
            yield from _top_level([*inner, *(node for one in handlers for node in one.body)])


def _is_coroutine_function(found: _Function) -> bool:
    """Whether a call makes something to await: an `async def` with a `yield` is a generator."""
    return isinstance(found, ast.AsyncFunctionDef) and not any(
        isinstance(node, ast.Yield) for node in _own_nodes(found)
    )


def _own_nodes(found: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    for node in ast.iter_child_nodes(found):
        yield node
        if not isinstance(node, _Function | ast.Lambda | ast.ClassDef):
            yield from _own_nodes(node)
