"""Renders the prompts of a flow with the values of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.prompts.compiler import compiled, own_names
from app.catalog.prompts.scanner import PromptError, is_formatted
from app.catalog.prompts.work import MAX_RENDERED_CHARACTERS, bounded
from app.runtime.errors import TemplateError

__all__ = ["is_formatted", "render"]


def render(
    template: str,
    values: Mapping[str, Any],
    names: frozenset[str] | None = None,
    formatted: bool | None = None,
) -> str:
    """The text with the values in it. Raises `TemplateError` with the line and the reason.

    `names` are the declared inputs and the defaults, None where no inputs are declared; `formatted` is
    whether the flow writes placeholders as `str.format` does, None where this text alone decides.
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
    except Exception as error:  # whatever Jinja and the data bring up
        raise TemplateError(
            f"The prompt cannot be rendered{_place(error)}: {_reason(error)}"
        ) from error


def _joined(parts: Any) -> str:
    kept, size = [], 0
    for part in parts:
        size += len(part)
        if size > MAX_RENDERED_CHARACTERS:
            raise TemplateError(f"The prompt is longer than {MAX_RENDERED_CHARACTERS} characters.")
        kept.append(part)
    return "".join(kept)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "It is nested too deeply."
    return str(error) or type(error).__name__


def _place(error: Exception) -> str:
    """The line of the prompt that the error came from, where Jinja knows it."""
    line, frame = None, error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return f" (line {line})" if line else ""
