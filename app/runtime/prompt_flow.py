"""Runs a prompt flow: renders its messages, asks the model, and parses the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.model import PromptFlow
from app.models.base import Completion
from app.runtime.context import Context
from app.runtime.errors import InvalidOutput
from app.runtime.parsers import parse
from app.runtime.templates import is_formatted, render


def run_prompt(flow: PromptFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    values = {
        **flow.defaults,
        **{name: value for name, value in inputs.items() if value is not None},
    }
    style = (flow.names, is_formatted(flow.system_prompt, flow.user_template))
    system, user = (
        render(text, values, *style) for text in (flow.system_prompt, flow.user_template)
    )
    messages = [{"role": "system", "content": system}] if flow.system_prompt else []
    messages.append({"role": "user", "content": user})
    parser = flow.output_parser
    tries = 1 + (parser.max_retries if parser.retry_on_error else 0)
    while True:
        completion = context.complete(messages, model=flow.model, **flow.options)
        tries -= 1
        try:
            return parse(parser, completion.text)
        except InvalidOutput as error:
            if not tries:
                raise InvalidOutput(f"{error}{_why(completion)}") from None
            complaint = f"Your answer could not be read: {error} Answer again, with nothing but the corrected answer."
            said = completion.text.encode(
                errors="replace"
            ).decode()  # a lone surrogate could not be sent back
            messages += [
                {"role": "assistant", "content": said},
                {"role": "user", "content": complaint},
            ]


def _why(completion: Completion) -> str:
    """What the end of an answer explains, where it could not be read."""
    if completion.refusal:
        return f" The model refused: {completion.refusal}"
    reason = completion.finish_reason
    return (
        ""
        if reason in (None, "stop")
        else f" The answer did not come to its end (finish_reason: {reason})."
    )
