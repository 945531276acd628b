"""Puts checks into a parsed prompt, so that rendering it reads only data and has a bounded cost.

`compiler` applies `Guard` to Jinja's syntax tree. It refuses tags and functions that prompts cannot
use, wraps values in the internal filters of `sandbox`, and puts text and placeholders back in place
of the names that stand for them (`PieceNames`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from app.catalog.prompts import methods
from app.catalog.prompts.sandbox import INTERNAL, sandbox
from app.catalog.prompts.scanner import Piece, PromptError
from app.catalog.prompts.syntax import RESERVED_WORDS
from app.catalog.suggestions import did_you_mean

# `self` is a variable of Jinja's own, and an input may have that name. It is renamed in the code,
# and in the values by `own_names`.
_SELF = "self·"

_ALLOWED_TAGS = (nodes.Output, nodes.If, nodes.For, nodes.Assign, nodes.With)


def own_names(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a run under the names that compiled prompts look up."""
    return {**values, _SELF: values["self"]} if "self" in values else values


@dataclass(frozen=True, slots=True)
class PieceNames:
    """The names that stand for texts and placeholders in what Jinja parses: `t·3` for text 3.

    `·` is a letter for Jinja, so a prompt could have such a name itself. There are therefore more
    of them in these names than in a row anywhere in the prompt.
    """

    dots: str

    @classmethod
    def unlike(cls, text: str) -> PieceNames:
        """The names that do not occur in this prompt."""
        return cls("·" * (1 + max(map(len, re.findall("·+", text)), default=0)))

    def of(self, piece: Piece, position: int) -> str:
        return f"{'t' if piece.kind == 'text' else 'p'}{self.dots}{position}"

    def position(self, name: str) -> int | None:
        """The position of the piece; None for a name of the prompt's own."""
        if not name.startswith((f"t{self.dots}", f"p{self.dots}")):
            return None
        return int(name[1 + len(self.dots) :])


class Guard(NodeTransformer):
    """Jinja calls `visit_X` for each node of the type X, and puts what it returns in its place."""

    def __init__(self, pieces: Sequence[Piece], names: PieceNames):
        self._pieces = pieces
        self._names = names

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(node, nodes.Stmt) and not isinstance(node, _ALLOWED_TAGS):
            message = "This tag cannot be used here. Use if, for, set, with or raw."
            raise PromptError(node.lineno, message)
        return super().generic_visit(node, *args, **kwargs)

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802 - Jinja's names
        node.nodes = [self._printed(child) for child in node.nodes]
        return node

    def _printed(self, child: nodes.Expr) -> nodes.Expr:
        position = self._names.position(child.name) if isinstance(child, nodes.Name) else None
        if position is None:
            return _filtered(self.visit(child), "print", nodes.Const(_spelled(child)))
        piece = self._pieces[position]
        if piece.kind == "text":
            return nodes.TemplateData(piece.text, lineno=child.lineno)
        return self._placeholder(piece, child.lineno)

    def _placeholder(self, piece: Piece, line: int) -> nodes.Expr:
        spelled = nodes.Const(piece.text, lineno=line)
        fallback = nodes.Const(piece.fallback)
        if not piece.text.isidentifier() or piece.text in RESERVED_WORDS:
            return _filtered(spelled, "lookup", fallback)
        # As a name, it can also be the variable of a `for` or `set` around it.
        value = self.visit(nodes.Name(piece.text, "load", lineno=line))
        return _filtered(value, "placeholder", spelled, fallback)

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
        node.iter = _filtered(node.iter, "iterate")
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Expr:  # noqa: N802
        function = node.node
        self.generic_visit(node)
        if isinstance(function, nodes.Name) and function.name == "range" and not node.kwargs:
            bounds = nodes.List(node.args, lineno=node.lineno)
            return _filtered(bounds, "range")
        if not isinstance(function, nodes.Getattr):
            name = _spelled(function)
            message = f"There is no function {name!r}. The only one is range."
            raise PromptError(node.lineno, message)
        if function.attr not in methods.NAMES:
            near = did_you_mean(function.attr, methods.NAMES)
            raise PromptError(node.lineno, f"There is no function {function.attr!r}.{near}")
        call = _filtered(function.node, "call", nodes.Const(function.attr), *node.args)
        # A call has keyword nodes where a filter's type wants pairs; Jinja compiles both alike.
        call.kwargs = cast(list[nodes.Pair], node.kwargs)
        call.dyn_args = node.dyn_args
        call.dyn_kwargs = node.dyn_kwargs
        return call

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "compare")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "compare")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _filtered(node.node, "slice", *(bound or nodes.Const(None) for bound in bounds))

    def visit_Pow(self, node: nodes.Pow) -> nodes.Node:  # noqa: N802
        raise PromptError(node.lineno, "Powers (**) cannot be used here.")

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        _check_name(node, "filter", sandbox.filters)
        return self.generic_visit(node)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        _check_name(node, "test", sandbox.tests)
        return self.generic_visit(node)


def _check_name(node: nodes.Filter | nodes.Test, kind: str, table: Collection[str]) -> None:
    if node.name not in table:
        near = did_you_mean(node.name, [name for name in table if name not in INTERNAL])
        raise PromptError(node.lineno, f"There is no {kind} {node.name!r}.{near}")


def _filtered(value: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    """The value, passed through one of the internal filters of `sandbox`."""
    filtered = nodes.Filter(value, f"(){name}", list(args), [], None, None, lineno=value.lineno)
    filtered.set_environment(sandbox)
    return filtered


def _spelled(node: nodes.Node) -> str:
    """Roughly what the prompt has there, for a message: Jinja keeps no source of its nodes."""
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
