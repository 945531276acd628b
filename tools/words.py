"""Holds the code to the house's rules of words: `python -m tools.words`, which `make lint` calls.

Fails, with file and line, on what ruff has no rule for: `can not`, a name `each` (a loop variable
is a noun), and the name of a key of the store outside `app/store`. `--figures` prints the measures
of size and comments, for app/ as a whole.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100

_TEXT = (".py", ".lua", ".md", ".yaml")
_CAN_NOT = re.compile(r"\bcan not\b(?! only)", re.IGNORECASE)
_KEY = re.compile(r"\b(exec|rq):")
_NO_REASON = re.compile(r"#\s*(noqa|type:|fmt:)")


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 if a rule is broken."""
    if arguments == ["--figures"]:
        print("\n".join(figures(sorted((ROOT / "app").rglob("*.py")))))
        return 0
    broken = [line for path in _files() for line in mistakes(path)]
    print("\n".join(broken) if broken else "The words are in order.")
    return 1 if broken else 0


def mistakes(path: Path) -> Iterator[str]:
    """Yields one line for each broken rule: `file:line: reason`."""
    text = path.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        if _CAN_NOT.search(line):
            yield f"{path}:{number}: write `cannot`"
        if _KEY.search(line) and _names_no_key(path):
            yield f"{path}:{number}: only `app/store` names a key of the store"
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name) and node.id == "each" and isinstance(node.ctx, ast.Store):
                yield f"{path}:{node.lineno}: name the loop variable for what it holds, not `each`"
            elif isinstance(node, ast.arg) and node.arg == "each":
                yield f"{path}:{node.lineno}: name the parameter for what it holds, not `each`"


def figures(paths: list[Path]) -> Iterator[str]:
    """Yields a line for each measure of these Python files."""
    texts = [path.read_text() for path in paths]
    lines = [line for text in texts for line in text.splitlines()]
    comments = sum(map(_comment_count, texts))
    code = sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))
    long = sum(len(line) > WIDTH for line in lines)
    modules = sorted(
        (len(text.splitlines()), path) for path, text in zip(paths, texts, strict=True)
    )
    functions = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    yield f"lines: {len(lines)} in {len(paths)} modules"
    yield f"modules, median / p90 / max lines: {_spread([count for count, _ in modules])}"
    yield f"functions, median / p90 / max lines: {_spread(functions)}"
    yield f"comment lines for each code line: {comments / code:.3f}"
    yield f"lines over {WIDTH} columns: {long} ({long / len(lines):.1%})"
    yield from (
        f"over 250 lines: {path.relative_to(ROOT)} ({count})"
        for count, path in modules
        if count > 250
    )


def _files() -> list[Path]:
    # Hidden folders hold environments and caches. The rule itself is written down in two files,
    # and the changelog keeps the words of its time.
    spared = (Path(__file__).name, "test_words.py", "CHANGELOG.md")
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    paths = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    return sorted(path for path in paths if path.suffix in _TEXT and path.name not in spared)


def _names_no_key(path: Path) -> bool:
    return path.is_relative_to(ROOT / "app") and not path.is_relative_to(ROOT / "app" / "store")


def _comment_count(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(
        token.type == tokenize.COMMENT and not _NO_REASON.match(token.string) for token in tokens
    )


def _spread(sizes: list[int]) -> str:
    if not sizes:
        return "none"
    return f"{statistics.median(sizes):g} / {sizes[int(0.9 * len(sizes))]} / {sizes[-1]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
