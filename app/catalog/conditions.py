"""Checks the JMESPath expressions of pipelines, and finds the names that they read.

The keys `when` of a step and `condition` of an aggregator have such expressions. They are checked
here at load, and evaluated in `app.runtime`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

_OLD_STYLE = re.compile(r"\bitem\.")
_NUMBER = re.compile(r"(?<=[<>=!])\s*(-?\d+(?:\.\d+)?|true|false|null)\b")

# In these expressions, only the left side reads names at the top level. The right side is looked up
# in what the left side found: `a.b` reads `a`.
_NARROWING = frozenset(
    [
        *("subexpression", "index_expression", "pipe"),
        *("projection", "value_projection", "filter_projection"),
    ]
)


def modern(expression: str) -> str:
    """The JMESPath form of an aggregator's condition.

    Old files write `item.price > 1` and `item.kind == "a"`, where JMESPath has no `item`, numbers
    need backticks, and double quotes mean a name. Other expressions are returned unchanged.
    """
    if not _OLD_STYLE.search(expression):
        return expression
    return _NUMBER.sub(r" `\1`", _OLD_STYLE.sub("", expression)).replace('"', "'")


def problem(expression: str) -> str | None:
    """Why the expression cannot be used, in one sentence; None if it can."""
    try:
        parsed = jmespath.compile(expression).parsed
    except JMESPathError as error:
        # The following lines of the message draw the position under the expression.
        reason = str(error).splitlines()[0].rstrip(":. ")
        return (
            f"This is not a valid JMESPath expression: {reason}."
            " Write numbers in `backticks` and text in 'single quotes'."
        )
    # jmespath finds unknown functions only when it evaluates an expression.
    unknown = sorted(_functions(parsed) - Functions.FUNCTION_TABLE.keys())
    return f"JMESPath has no function {unknown[0]!r}." if unknown else None


def _functions(node: Mapping[str, Any]) -> frozenset[str]:
    own = frozenset([node["value"]] if node["type"] == "function_expression" else [])
    return own.union(*(_functions(child) for child in node["children"]))


def reads(expression: str) -> frozenset[str]:
    """The names that a valid expression looks up among the inputs and output keys."""
    return _names(jmespath.compile(expression).parsed)


def _names(node: Mapping[str, Any]) -> frozenset[str]:
    if node["type"] == "field":
        return frozenset([node["value"]])
    if node["type"] == "expref":  # `&price` in sort_by: looked up in each item of the list
        return frozenset()
    children = node["children"][:1] if node["type"] in _NARROWING else node["children"]
    return frozenset().union(*(_names(child) for child in children))
