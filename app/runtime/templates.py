"""Prompt templates: `{name}`, `{{ name }}`, `{% if %}` and `{% for %}`, mixed as users' files mix them.

Single braces around an identifier are a placeholder, and so are double ones around an expression that
begins with one. All other braces, such as JSON in a prompt, are text. Everything is rendered in one pass,
so a value that contains braces is never rendered again. The sandbox keeps templates from reaching into
Python; their size is bounded, the time they take is bounded by the run's timeout alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.runtime.errors import TemplateError

MAX_RENDERED_CHARACTERS = 4 * 1024 * 1024
MAX_REPEATED = 100_000

_PIECES = re.compile(
    r"\{%-?\s*(?P<tag>if|elif|else|endif|for|endfor|set)\b(?P<statement>(?:(?!\{%).)*?)-?%\}"
    r"|\{\{-?(?P<expression>\s*[^\W\d]\w*+(?:[^{}]|\{[^{}]*\})*?)-?\}\}"
    r"|(?<!\{)\{(?P<name>[^\W\d]\w*)\}(?!\})",
    re.DOTALL,
)

_WORDS = frozenset(
    ["true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if", "else", "elif", "for"]
)


def render(template: str, values: Mapping[str, Any]) -> str:
    """The text with the values in it; a placeholder without a value is empty. Raises `TemplateError`."""
    parts, size = [], 0
    try:
        for part in _compiled(template).generate(**values):
            size += len(part)
            if size > MAX_RENDERED_CHARACTERS:
                raise TemplateError(f"The prompt is longer than {MAX_RENDERED_CHARACTERS} characters.")
            parts.append(part)
    except (jinja2.TemplateError, SecurityError, TypeError, ValueError, ArithmeticError) as error:
        raise TemplateError(f"The template can not be rendered: {error}") from error
    return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    """Refuses the operators that make something huge out of something small."""

    intercepted_binops = frozenset({"**", "*", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("Powers are not allowed in a template.")
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, int) and not isinstance(other, (int, float)) and one > MAX_REPEATED:
                raise SecurityError("Nothing is repeated that often in a template.")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("Text is not formatted with % in a template.")
        return super().call_binop(context, operator, left, right)


def _text(value: Any) -> Any:
    """How a value stands in a prompt: text as it is, anything structured as JSON, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, (dict, list, tuple, bool)):
        return json.dumps(value, ensure_ascii=False)
    return value


# The delimiters are control characters, so that no text of a user's can be taken for one.
_environment = _Environment(
    block_start_string="\x01%",
    block_end_string="%\x02",
    variable_start_string="\x01=",
    variable_end_string="=\x02",
    comment_start_string="\x01#",
    comment_end_string="#\x02",
    keep_trailing_newline=True,
    autoescape=False,
    finalize=_text,
)


@lru_cache(maxsize=512)
def _compiled(template: str) -> jinja2.Template:
    clean = template.replace("\x01", "").replace("\x02", "")
    return _environment.from_string(_PIECES.sub(_translated, clean))


def _translated(piece: re.Match[str]) -> str:
    if piece["tag"]:
        return f"\x01% {piece['tag']}{piece['statement']} %\x02"
    expression = piece["name"] or piece["expression"]
    if expression in _WORDS or not _is_expression(expression):
        return piece[0]
    return f"\x01= {expression} =\x02"


def _is_expression(text: str) -> bool:
    try:
        _environment.parse(f"\x01= {text} =\x02")
    except jinja2.TemplateSyntaxError:
        return False
    return True
