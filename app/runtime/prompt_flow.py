"""Runs a prompt flow: renders its messages, asks the model, and parses the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.model import PromptFlow
from app.runtime.context import Context
from app.runtime.errors import InvalidOutput
from app.runtime.parsers import parse
from app.runtime.templates import is_formatted, render


def run_prompt(flow: PromptFlow, inputs: Mapping[str, Any], context: Context) -> Any:
    values = {**flow.defaults, **{name: value for name, value in inputs.items() if value is not None}}
    style = (flow.names, is_formatted(flow.system_prompt, flow.user_template))
    messages = [{"role": "system", "content": render(flow.system_prompt, values, *style)}] if flow.system_prompt else []
    messages.append({"role": "user", "content": render(flow.user_template, values, *style)})
    options = {"temperature": flow.temperature, "max_tokens": flow.max_tokens}
    options = {name: value for name, value in options.items() if value is not None}
    parser = flow.output_parser
    tries = 1 + (parser.max_retries if parser.retry_on_error else 0)
    while True:
        text = context.complete(messages, model=flow.model, **options).text
        tries -= 1
        try:
            return parse(parser, text)
        except InvalidOutput as error:
            if not tries:
                raise
            complaint = f"Your answer could not be read: {error} Answer again, with nothing but the corrected answer."
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": complaint}]
