"""Runs a prompt flow: renders its messages, calls the model, and parses the answer.

`flows.py` calls `run_prompt` for flows that are written as a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.model import PromptFlow
from app.providers.base import Completion
from app.runtime.context import Context
from app.runtime.errors import InvalidOutput
from app.runtime.parsers import parse
from app.runtime.templates import is_formatted, render


def run_prompt(flow: PromptFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    """The parsed answer. Raises `TemplateError`, `InvalidOutput`, and as `context.complete` does.

    If the flow says so, an answer that cannot be parsed goes back to the model with the reason.
    """
    messages = _messages(flow, inputs)
    parser = flow.output_parser
    tries = 1 + (parser.max_retries if parser.retry_on_error else 0)
    while True:
        completion = context.complete(
            messages, model=flow.model, stream=flow.stream, **flow.options
        )
        tries -= 1
        try:
            return parse(parser, completion.text)
        except InvalidOutput as error:
            if not tries:
                why = f"{error}{_why(completion)}"
                raise InvalidOutput(why, completion.text) from None
            # A lone surrogate cannot be sent in JSON, so it goes back as a question mark.
            answer = completion.text.encode(errors="replace").decode()
            complaint = (
                f"Your answer could not be read: {error} "
                "Reply again, with nothing but the corrected answer."
            )
            messages += [
                {"role": "assistant", "content": answer},
                {"role": "user", "content": complaint},
            ]


def _messages(flow: PromptFlow, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
    # A null input counts as left out, so that a default takes its place.
    given = {name: value for name, value in inputs.items() if value is not None}
    values = {**flow.defaults, **given}
    # Both texts decide together whether placeholders are written as for `str.format`.
    formatted = is_formatted(flow.system_prompt, flow.user_template)
    messages: list[dict[str, str]] = []
    if flow.system_prompt:
        system = render(flow.system_prompt, values, flow.names, formatted)
        messages.append({"role": "system", "content": system})
    user = render(flow.user_template, values, flow.names, formatted)
    messages.append({"role": "user", "content": user})
    return messages


def _why(completion: Completion) -> str:
    """How the answer ended, as a sentence, if that explains why it could not be parsed."""
    if completion.refusal:
        return f" The model refused: {completion.refusal}"
    reason = completion.finish_reason
    if reason in (None, "stop"):
        return ""
    return f" The model stopped before the end of its answer (finish_reason: {reason})."
