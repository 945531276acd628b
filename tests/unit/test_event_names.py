"""Every log event has a constant name, and docs/operations.md explains it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def logged() -> Iterator[tuple[str, ast.expr]]:
    """Yields the place and the first argument of each call of a logger in the code."""
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
            ):
                owner = node.func.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                if name.strip("_") == "log":
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0]


def test_every_event_has_a_constant_name_that_the_docs_explain() -> None:
    found = list(logged())
    assert len(found) > 15  # else the search above no longer finds the calls
    [table] = re.findall(
        r"\| event \|.*?\n\n", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL
    )
    documented = set(re.findall(r"`([a-z_]+)`", table))
    for where, name in found:
        assert isinstance(name, ast.Constant), where
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name.value), where
        assert name.value in documented, where
