"""Checks that the Python file of a flow defines its entrypoint, without running the file.

Called by `agents` at load. It parses the file and looks for names that its top level defines.
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

from app.catalog.files import read_bytes
from app.catalog.suggestions import did_you_mean
from app.domain.errors import ConfigurationError

# Generated code can be large, but a syntax tree takes many times the size of its source in memory.
MAX_CODE_BYTES = 4 * 1024 * 1024

# A file that uses one of these may define names in ways that only running it shows.
_DYNAMIC = frozenset(["globals", "setattr", "exec", "__getattr__"])


_PATHS = frozenset(["sys.path", "sys.meta_path", "sys.path_hooks", "site.addsitedir"])


def problem(file: Path, name: str) -> str | None:
    """Why `name` cannot be taken from the file, in one sentence; None if it can, or may."""
    try:
        tree = _parsed(read_bytes(file, MAX_CODE_BYTES))
    except ConfigurationError as error:
        return str(error)
    except SyntaxError as error:
        return f"{file}:{error.lineno or 1}: This is not valid Python: {error.msg}."
    except (ValueError, RecursionError, MemoryError):  # zero bytes; nested too deeply
        return f"{file}:1: This is not valid Python."
    if name in set(_defined(tree.body)) or _is_dynamic(tree):
        return None
    return f"{file} does not define {name!r}.{did_you_mean(name, _defined(tree.body))}"


def missing_modules(file: Path) -> Iterator[str]:
    """What the file is sure to import and what is not there, in a sentence with its line.

    Nothing is imported. It is a doubt and no mistake, since a flow may run elsewhere than where its
    file is read: the web processes run no flows.
    """
    tree = tree_of(file)
    if tree is None:
        return
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    if any(ast.unparse(node) in _PATHS for node in attributes):
        return  # the file may say itself where modules are
    for statement in tree.body:  # imports in `try` and `if` may be for other machines
        names = _imported(statement)
        for name in dict.fromkeys(name.partition(".")[0] for name in names):
            if not is_installed(name):
                yield f"{file}:{statement.lineno} imports {name!r}, which is not installed here."
        if isinstance(statement, ast.ImportFrom) and statement.level == 1 and statement.module:
            name = statement.module.partition(".")[0]
            if not any(file.parent.glob(f"{name}.*")) and not (file.parent / name).is_dir():
                yield (f"{file}:{statement.lineno} imports '.{name}', and there is no such file.")


def _imported(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom) and not statement.level:
        return [statement.module or ""]
    return []


def is_installed(module: str) -> bool:
    """Whether Python finds a module, which is not imported. `module` has no dots."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is loaded in some special way, as `__main__` is
        return True


def tree_of(file: Path) -> ast.Module | None:
    """The syntax tree of a file; None for one that cannot be read, which `problem` reports."""
    try:
        return _parsed(read_bytes(file, MAX_CODE_BYTES))
    except (ConfigurationError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _parsed(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        # Warnings (about an invalid escape, say) are for the author, and appear when the file runs.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _is_dynamic(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
        if isinstance(node, ast.Name) and node.id in _DYNAMIC:
            return True
        if isinstance(node, ast.FunctionDef) and node.name in _DYNAMIC:
            return True
    return False


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """The names that these statements define, in any branch of `if`, `try` and the like.

    Names inside functions and classes are not among them.
    """
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            # `import a.b` defines `a`.
            names = (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
            yield from names
        elif not (isinstance(statement, ast.AnnAssign) and statement.value is None):
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
                elif isinstance(node, ast.stmt) and node is not statement:
                    yield from _defined([node])
