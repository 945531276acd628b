"""From a prompt's pieces to code that renders it, with everything checked that can be checked before."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jinja2
from jinja2 import meta, nodes
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from app.catalog.prompts import methods
from app.catalog.prompts.sandbox import INTERNAL, sandbox
from app.catalog.prompts.scanner import WORDS, Piece, PromptError, scan

TEXT, PLACEHOLDER = "t·", "p·"
"""How the names begin that stand for pieces in what Jinja parses. No prompt can spell them."""

_SELF = "self·"
"""`self` is a name of Jinja's own; an input may be called so."""

_ALLOWED = (nodes.Output, nodes.If, nodes.For, nodes.Assign, nodes.With)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and on which line of the prompt."""

    line: int
    reason: str


@lru_cache(maxsize=1024)
def compiled(text: str, names: frozenset[str] | None, formatted: bool) -> jinja2.Template:
    """The prompt, ready to be rendered. Raises `PromptError` for the first thing that is wrong."""
    tree, pieces = _parsed(text, names, formatted)
    try:
        code = sandbox.compile(_Guard(pieces).visit(tree))
    except jinja2.TemplateSyntaxError as error:
        raise PromptError(error.lineno, _sentence(error)) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise PromptError(1, "The prompt is nested too deeply.") from None
    return jinja2.Template.from_code(sandbox, code, {})


def problems(text: str, names: frozenset[str] | None, formatted: bool) -> Iterator[Problem]:
    """Everything that is wrong with a prompt; nothing where it can be rendered."""
    try:
        compiled(text, names, formatted)
    except PromptError as error:
        yield Problem(error.line, error.reason)
        return
    if names is not None:
        tree, _ = _parsed(text, names, formatted)
        for name in sorted(_read(tree) - names):
            yield Problem(_line_of(tree, name), _unknown(name, names))


def _read(tree: nodes.Template) -> set[str]:
    """The names that a prompt reads and does not set itself."""
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name):
            call.node.name = TEXT  # a function's
    return {
        name
        for name in meta.find_undeclared_variables(tree)
        if not name.startswith((TEXT, PLACEHOLDER))
    }


def _unknown(name: str, names: Collection[str]) -> str:
    near = suggestion(name, names)
    return f"{name!r} is neither an input of the agent nor a default of this prompt.{near}"


def suggestion(name: str, names: Iterable[str]) -> str:
    """` Did you mean 'x'?`, where there is a name that is nearly the same."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _line_of(tree: nodes.Template, name: str) -> int:
    return next(found.lineno for found in tree.find_all(nodes.Name) if found.name == name)


def _parsed(
    text: str, names: frozenset[str] | None, formatted: bool
) -> tuple[nodes.Template, list[Piece]]:
    pieces = scan(text, names, formatted, is_expression)
    try:
        return sandbox.parse(_source(pieces)), pieces
    except jinja2.TemplateSyntaxError as error:
        raise PromptError(error.lineno, _sentence(error)) from None
    except RecursionError:
        raise PromptError(1, "The prompt is nested too deeply.") from None


def _sentence(error: jinja2.TemplateSyntaxError) -> str:
    reason = (error.message or "").replace("Jinja was looking for", "It lacks")
    return f"The template is not well formed: {reason}"


def is_expression(text: str) -> bool:
    """Whether Jinja can read it, and there is a name in it. Otherwise, it is text in braces."""
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


def _source(pieces: Sequence[Piece]) -> str:
    """What Jinja parses: the tags, and names in place of everything else. Lines stay the same."""
    parts: list[str] = []
    line = 1
    for position, piece in enumerate(pieces):
        part = _spelled_for_jinja(piece, position)
        parts.append("{#" + "\n" * (piece.line - line) + "#}" + part)
        line = piece.line + part.count("\n")
    return "".join(parts)


def _spelled_for_jinja(piece: Piece, position: int) -> str:
    if piece.kind == "statement":
        return f"{{% {piece.text} %}}"
    if piece.kind == "expression":
        return f"{{{{ {piece.text} }}}}"
    prefix = TEXT if piece.kind == "text" else PLACEHOLDER
    return f"{{{{ {prefix}{position} }}}}"


class _Guard(NodeTransformer):
    """Puts a check before everything that reaches outside of the data, or may cost much."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = pieces

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(node, nodes.Stmt) and not isinstance(node, _ALLOWED):
            raise PromptError(
                node.lineno, "This tag cannot be used here; if, for, set, with and raw can."
            )
        return super().generic_visit(node, *args, **kwargs)

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802 - Jinja's names
        node.nodes = [self._printed(child) for child in node.nodes]
        return node

    def _printed(self, child: nodes.Expr) -> nodes.Expr:
        name = child.name if isinstance(child, nodes.Name) else ""
        if name.startswith(TEXT):
            return nodes.TemplateData(self._text(name), lineno=child.lineno)
        if name.startswith(PLACEHOLDER):
            return self._placeholder(name, child.lineno)
        return _checked(self.visit(child), "print", nodes.Const(_spelled(child)))

    def _text(self, name: str) -> str:
        return self._pieces[int(name[len(TEXT) :])].text

    def _placeholder(self, name: str, line: int) -> nodes.Expr:
        piece = self._pieces[int(name[len(PLACEHOLDER) :])]
        spelled = nodes.Const(piece.text, lineno=line)
        otherwise = nodes.Const(piece.otherwise)
        if not piece.text.isidentifier() or piece.text in WORDS:
            return _checked(spelled, "given", otherwise)
        value = self.visit(nodes.Name(piece.text, "load", lineno=line))
        return _checked(value, "placeholder", spelled, otherwise)

    def visit_Name(self, node: nodes.Name) -> nodes.Name:  # noqa: N802
        if node.name == "self":
            node.name = _SELF
        return node

    def visit_NSRef(self, node: nodes.NSRef) -> nodes.Node:  # noqa: N802
        raise PromptError(node.lineno, "namespace() cannot be used here.")

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        if node.recursive:
            raise PromptError(node.lineno, "A loop cannot be recursive here.")
        self.generic_visit(node)
        node.iter = _checked(node.iter, "steps")
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Expr:  # noqa: N802
        function = node.node
        self.generic_visit(node)
        if isinstance(function, nodes.Name) and function.name == "range" and not node.kwargs:
            bounds = nodes.List(node.args, lineno=node.lineno)
            return _checked(bounds, "range")
        if not isinstance(function, nodes.Getattr):
            raise PromptError(
                node.lineno, f"There is no function {_spelled(function)!r}; there is range."
            )
        if function.attr not in methods.NAMES:
            near = suggestion(function.attr, methods.NAMES)
            raise PromptError(node.lineno, f"There is no function {function.attr!r}.{near}")
        call = _checked(function.node, "call", nodes.Const(function.attr), *node.args)
        call.kwargs = cast(list[nodes.Pair], node.kwargs)
        call.dyn_args, call.dyn_kwargs = node.dyn_args, node.dyn_kwargs
        return call

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _checked(nodes.List(node.nodes, lineno=node.lineno), "concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _checked(node.expr, "compare")
        for operand in node.ops:
            operand.expr = _checked(operand.expr, "compare")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _checked(node.node, "cut", *(bound or nodes.Const(None) for bound in bounds))

    def visit_Pow(self, node: nodes.Pow) -> nodes.Node:  # noqa: N802
        raise PromptError(node.lineno, "Powers (**) cannot be used here.")

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        _known(node, "filter", sandbox.filters)
        return self.generic_visit(node)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        _known(node, "test", sandbox.tests)
        return self.generic_visit(node)


def _known(node: nodes.Filter | nodes.Test, kind: str, table: Collection[str]) -> None:
    if node.name not in table:
        near = suggestion(node.name, [name for name in table if name not in INTERNAL])
        raise PromptError(node.lineno, f"There is no {kind} {node.name!r}.{near}")


def _checked(value: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    """The value, after one of the sandbox's own filters."""
    checked = nodes.Filter(value, f"(){name}", list(args), [], None, None, lineno=value.lineno)
    checked.set_environment(sandbox)
    return checked


def _spelled(node: nodes.Node) -> str:
    """About what was written, for a message."""
    match node:
        case nodes.Name():
            return node.name.removesuffix("·")
        case nodes.Getattr():
            return f"{_spelled(node.node)}.{node.attr}"
        case nodes.Getitem():
            return f"{_spelled(node.node)}[{_spelled(node.arg)}]"
        case nodes.Const():
            return repr(node.value)
        case nodes.Filter(node=nodes.Node() as value):
            return f"{_spelled(value)}|{node.name}"
        case nodes.Call():
            return f"{_spelled(node.node)}(…)"
        case _:
            return "…"


def own_names(values: dict[str, Any]) -> dict[str, Any]:
    """The values under the names that the code looks for."""
    return {**values, _SELF: values["self"]} if "self" in values else values
