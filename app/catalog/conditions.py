"""The JMESPath in `when`: whether it is well formed, and what it reads. It is evaluated in `app.runtime`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

_NARROWING = frozenset(
    ["subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection"]
)
"""Expressions of which only the left side is looked up at the top; all else is looked up in what that found."""


def complaint(expression: str) -> str | None:
    """What is wrong with the expression, in one sentence; None where nothing is."""
    try:
        jmespath.compile(expression)
    except JMESPathError as error:
        reason = str(error).splitlines()[0].rstrip(":. ")
        return f"This is no JMESPath expression: {reason}. Numbers stand in `backticks`, text in 'single quotes'."
    return None


def reads(expression: str) -> frozenset[str]:
    """The names that a well-formed expression looks up among the inputs and output keys."""
    return _names(jmespath.compile(expression).parsed)


def _names(node: Mapping[str, Any]) -> frozenset[str]:
    if node["type"] == "field":
        return frozenset([node["value"]])
    children = node["children"][:1] if node["type"] in _NARROWING else node["children"]
    return frozenset().union(*(_names(child) for child in children))
