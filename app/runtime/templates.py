"""Renders the prompts of a flow with the values of a run. `prompt_flow.py` calls `render`.

`app.catalog.prompts` compiles the templates, in the sandbox that bounds what they may do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.catalog.prompts.budget import MAX_RENDERED_CHARACTERS, bounded
from app.catalog.prompts.compiler import compiled, own_names
from app.catalog.prompts.scanner import PromptError, is_formatted
from app.runtime.errors import TemplateError

__all__ = ["is_formatted", "render"]


def render(
    template: str,
    values: Mapping[str, Any],
    names: frozenset[str] | None = None,
    formatted: bool | None = None,
) -> str:
    """The text with the values in it. Raises `TemplateError` with the line and the reason.

    `names` are the declared inputs and the defaults, None if no inputs are declared. `formatted` is
    whether the flow writes placeholders as `str.format` does; None: decide by this text alone.
    """
    formatted = is_formatted(template) if formatted is None else formatted
    try:
        prompt = compiled(template, names, formatted)
    except PromptError as error:
        raise TemplateError(f"Line {error.line} of the prompt: {error.reason}") from None
    try:
        with bounded():
            return _joined(prompt.generate(own_names(dict(values))))
    except TemplateError:
        raise
    except Exception as error:  # Jinja's own errors, and those of the data's types
        message = f"The prompt cannot be rendered{_place(error)}: {_reason(error)}"
        raise TemplateError(message) from error


def _joined(parts: Iterator[str]) -> str:
    kept: list[str] = []
    size = 0
    # Counted part by part: a small template can make a text that fills the memory.
    for part in parts:
        size += len(part)
        if size > MAX_RENDERED_CHARACTERS:
            limit = MAX_RENDERED_CHARACTERS
            raise TemplateError(
                f"The prompt is longer than {limit} characters: shorten its inputs."
            )
        kept.append(part)
    return "".join(kept)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "It is nested too deeply."
    return str(error) or type(error).__name__


def _place(error: Exception) -> str:
    """The line of the prompt in which the error occurred, if Jinja knows it."""
    line = None
    frame = error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return f" (line {line})" if line else ""
