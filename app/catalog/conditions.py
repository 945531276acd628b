"""The JMESPath in `when`: whether it is well formed, and what it reads. It is evaluated in `app.runtime`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

_OLD_STYLE = re.compile(r"\bitem\.")
_NUMBER = re.compile(r"(?<=[<>=!])\s*(-?\d+(?:\.\d+)?|true|false|null)\b")

_NARROWING = frozenset(
    [
        "subexpression",
        "index_expression",
        "pipe",
        "projection",
        "value_projection",
        "filter_projection",
    ]
)
"""Expressions of which only the left side is looked up at the top; all else is looked up in what that found."""


def modern(expression: str) -> str:
    """An aggregator's condition in JMESPath's spelling: old files say `item.price > 1` and `item.kind == "a"`."""
    if not _OLD_STYLE.search(expression):
        return expression
    return _NUMBER.sub(r" `\1`", _OLD_STYLE.sub("", expression)).replace('"', "'")


def complaint(expression: str) -> str | None:
    """What is wrong with the expression, in one sentence; None where nothing is."""
    try:
        parsed = jmespath.compile(expression).parsed
    except JMESPathError as error:
        reason = str(error).splitlines()[0].rstrip(":. ")
        return f"This is no JMESPath expression: {reason}. Numbers stand in `backticks`, text in 'single quotes'."
    unknown = sorted(_functions(parsed) - Functions.FUNCTION_TABLE.keys())
    return f"JMESPath has no function {unknown[0]!r}." if unknown else None


def _functions(node: Mapping[str, Any]) -> frozenset[str]:
    own = frozenset([node["value"]] if node["type"] == "function_expression" else [])
    return own.union(*(_functions(child) for child in node["children"]))


def reads(expression: str) -> frozenset[str]:
    """The names that a well-formed expression looks up among the inputs and output keys."""
    return _names(jmespath.compile(expression).parsed)


def _names(node: Mapping[str, Any]) -> frozenset[str]:
    if node["type"] == "field":
        return frozenset([node["value"]])
    if node["type"] == "expref":
        return frozenset()  # it is looked up in what a function is given
    children = node["children"][:1] if node["type"] in _NARROWING else node["children"]
    return frozenset().union(*(_names(child) for child in children))
