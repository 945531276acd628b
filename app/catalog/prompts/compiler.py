"""Compiles a prompt to a Jinja template, and finds its mistakes.

`app.catalog.agents` calls `problems` at load; `app.runtime.templates` calls `compiled` and renders
the result. The prompt is cut into pieces (`scanner`), Jinja parses its tags, and `guard` puts
checks and texts into the parsed tree.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import jinja2
from jinja2 import meta, nodes
from jinja2.parser import Parser

from app.catalog.prompts import scanner
from app.catalog.prompts.guard import Guard, PieceNames, own_names
from app.catalog.prompts.sandbox import sandbox
from app.catalog.prompts.scanner import Piece, PromptError, scan
from app.catalog.suggestions import did_you_mean

__all__ = ["TemplateProblem", "compiled", "own_names", "problems"]


@dataclass(frozen=True, slots=True)
class TemplateProblem:
    """What is wrong with a prompt, in one sentence, and on which of its lines, from 1."""

    line: int
    reason: str


@lru_cache(maxsize=1024)  # a run renders the same prompts again and again
def compiled(text: str, names: frozenset[str] | None, formatted: bool) -> jinja2.Template:
    """The prompt, ready to be rendered. Raises `PromptError` for its first mistake.

    `names` are the names that a run can give, None if it can give any. `formatted` says whether the
    flow writes placeholders like `str.format`, as `scanner.is_formatted` tells.
    """
    pieces = scan(text, names, formatted, is_expression)
    piece_names = PieceNames.unlike(text)
    tree = _parsed(pieces, piece_names)
    try:
        code = sandbox.compile(Guard(pieces, piece_names).visit(tree))
    except jinja2.TemplateSyntaxError as error:
        raise PromptError(error.lineno, _sentence(error)) from None
    # Python's compiler, too, has limits: it raises SyntaxError for more than 20 nested blocks.
    except (RecursionError, MemoryError, SyntaxError):
        raise PromptError(1, "The prompt is nested too deeply.") from None
    return jinja2.Template.from_code(sandbox, code, {})


def problems(text: str, names: frozenset[str] | None, formatted: bool) -> Iterator[TemplateProblem]:
    """The mistakes of a prompt: the first one in its syntax, else all names that are unknown."""
    try:
        compiled(text, names, formatted)
    except PromptError as error:
        yield TemplateProblem(error.line, error.reason)
        return
    if names is not None:
        pieces = scan(text, names, formatted, is_expression)
        piece_names = PieceNames.unlike(text)
        tree = _parsed(pieces, piece_names)  # again: the guard changes the tree that it visits
        for name in sorted(_names_read(tree, piece_names) - names):
            yield TemplateProblem(_line_of(tree, name), _unknown(name, names))


def doubts(text: str, names: frozenset[str], formatted: bool) -> Iterator[TemplateProblem]:
    """What is probably a mistake in a prompt without `problems`: `{nmae}`, which is text."""
    for line, name in scanner.unfilled(text, names, formatted, is_expression):
        near = (
            did_you_mean(name, names)
            or " Put braces that are text between {% raw %} and {% endraw %}."
        )
        known = f"{name!r} is neither an input of the agent nor a default of this prompt"
        yield TemplateProblem(line, f"{{{name}}} is sent as text: {known}.{near}")


@lru_cache(maxsize=256)  # many steps may use one prompt
def names_needed(text: str, formatted: bool) -> frozenset[str]:
    """The names without which a prompt has gaps, if a run can give any name.

    A name that a tag looks at (`{% if name %}`) is not among them: the prompt may do without it.
    """
    pieces = scan(text, None, formatted, is_expression)
    piece_names = PieceNames.unlike(text)
    named = {piece.text for piece in pieces if piece.kind == "placeholder" and not piece.fallback}
    tags = " ".join(piece.text for piece in pieces if piece.kind == "statement")
    optional = {*re.findall(r"\w+", tags)}
    tree = _parsed(pieces, piece_names)
    for filtered in tree.find_all((nodes.Filter, nodes.Test)):
        if filtered.name in ("default", "d", "defined", "undefined"):
            optional |= {name.name for name in filtered.find_all(nodes.Name)}
    return frozenset((named | _names_read(tree, piece_names)) - optional)


def _names_read(tree: nodes.Template, piece_names: PieceNames) -> set[str]:
    """The names that a prompt reads and does not set itself."""
    # `range` in `range(3)` is not a value that a run must give.
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name):
            call.node = nodes.Const(None)
    names = meta.find_undeclared_variables(tree)
    return {name for name in names if piece_names.position(name) is None}


def _unknown(name: str, names: Collection[str]) -> str:
    near = did_you_mean(name, names)
    return f"{name!r} is neither an input of the agent nor a default of this prompt.{near}"


def _line_of(tree: nodes.Template, name: str) -> int:
    return next(node.lineno for node in tree.find_all(nodes.Name) if node.name == name)


def _parsed(pieces: Sequence[Piece], piece_names: PieceNames) -> nodes.Template:
    try:
        return sandbox.parse(_source(pieces, piece_names))
    except jinja2.TemplateSyntaxError as error:
        raise PromptError(error.lineno, _sentence(error)) from None
    except RecursionError:
        raise PromptError(1, "The prompt is nested too deeply.") from None


def _sentence(error: jinja2.TemplateSyntaxError) -> str:
    reason = (error.message or "").replace("Jinja was looking for", "Expected")
    return f"The template is not well formed: {reason}"


def is_expression(text: str) -> bool:
    """Whether the inside of `{{ }}` is an expression with a name in it; otherwise it is text."""
    # `{{1, 2}}` is valid Jinja too, but without a name it can only be text (a set in mathematics).
    try:
        parser = Parser(sandbox, text, state="variable")
        found = parser.parse_tuple(with_condexpr=True)
        return parser.stream.eos and any(True for _ in _names(found))
    except (jinja2.TemplateSyntaxError, RecursionError):
        return False


def _names(node: nodes.Node) -> Iterator[nodes.Node]:
    if isinstance(node, nodes.Name):
        yield node
    yield from node.find_all(nodes.Name)


def _source(pieces: Sequence[Piece], piece_names: PieceNames) -> str:
    """The text that Jinja parses: the tags as they are, and a name for every other piece."""
    parts: list[str] = []
    line = 1
    for position, piece in enumerate(pieces):
        if piece.kind == "statement":
            part = f"{{% {piece.text} %}}"
        elif piece.kind == "expression":
            part = f"{{{{ {piece.text} }}}}"
        else:
            part = f"{{{{ {piece_names.of(piece, position)} }}}}"
        # A comment with the line breaks that the names lack keeps Jinja's line numbers right.
        parts.append("{#" + "\n" * (piece.line - line) + "#}" + part)
        line = piece.line + part.count("\n")
    return "".join(parts)
