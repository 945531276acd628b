"""Looks at the file of a Python flow without running it."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from app.catalog.files import read_bytes
from app.errors import ConfigurationError

MAX_CODE_BYTES = 4 * 1024 * 1024

_DYNAMIC = frozenset(["globals", "setattr", "exec", "__getattr__"])
"""A file that has one of these names may define others in a way that only running it shows."""


def problem(file: Path, name: str) -> str | None:
    """Why the file cannot bring `name`: it is no Python, or defines nothing of that name."""
    try:
        tree = _parsed(read_bytes(file, MAX_CODE_BYTES))
    except ConfigurationError as error:
        return str(error)
    except SyntaxError as error:
        return f"{file}:{error.lineno or 1}: This is not Python: {error.msg}."
    except (ValueError, RecursionError, MemoryError):
        return f"{file}:1: This is not Python."
    if name in set(_defined(tree.body)) or _is_dynamic(tree):
        return None
    return f"{file} defines no {name!r}."


def _parsed(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an escape, say: they are for whoever wrote it
        return ast.parse(source)


def _is_dynamic(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
        if (isinstance(node, ast.Name) and node.id in _DYNAMIC) or (
            isinstance(node, ast.FunctionDef) and node.name in _DYNAMIC
        ):
            return True
    return False


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """The names that running these statements would define; those of functions and classes stay inside."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
                elif isinstance(node, ast.stmt) and node is not statement:
                    yield from _defined([node])
