"""Runs one flow of an agent. Returns its outputs: `output`, and `metadata` about the model calls.

`run.py` calls `run_flow` for an agent's run and for each step of a pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.model import Agent, Flow, PromptFlow
from app.domain.execution import ModelUsage
from app.providers.base import Completion
from app.providers.token_counts import MAX_TOKENS
from app.runtime.context import Context
from app.runtime.errors import InvalidOutput
from app.runtime.prompt_flow import run_prompt
from app.runtime.python_flow import run_python
from app.runtime.usage import UNKNOWN_MODEL


def run_flow(
    agent: Agent, flow: Flow, inputs: Mapping[str, Any], context: Context
) -> dict[str, Any]:
    """The outputs: `output`, and `metadata` with at least `model_used` and `tokens_used`.

    Raises whatever the flow raises, and `InvalidOutput` for `metadata` that does not fit.
    """
    if isinstance(flow, PromptFlow):
        outputs: dict[str, Any] = {"output": run_prompt(flow, inputs, context)}
        if context.last_completion and context.last_completion.tool_calls:
            # A prompt's output is text, so the tool calls would be lost otherwise.
            outputs["metadata"] = {"tool_calls": context.last_completion.tool_calls}
        return _filled_in(outputs, context)
    return outputs_of_python(run_python(flow, inputs, context), context)


def outputs_of_python(returned: Any, context: Context) -> dict[str, Any]:
    """What a Python flow returned, as outputs. A dict with the key `output` is the outputs already.

    Raises `BudgetExceeded` if a model call of the flow did, even if the flow has caught it.
    """
    context.raise_if_budget_exceeded()
    if isinstance(returned, dict) and "output" in returned:
        return _filled_in(returned, context)
    return _filled_in({"output": returned}, context)


def _filled_in(outputs: dict[str, Any], context: Context) -> dict[str, Any]:
    """Adds to `metadata` what the model calls reported. What the flow has set itself stays.

    If the flow made no calls through its context, its own figures count as its usage.
    """
    own = outputs.get("metadata")
    if own is not None and not isinstance(own, dict):
        raise InvalidOutput("outputs.metadata must be an object or null.")
    models, total = context.usage.models, context.usage.total
    metadata: dict[str, Any] = {
        "model_used": list(models)[-1] if models else None,
        "tokens_used": total.total_tokens if models else None,
    }
    if models:
        metadata |= {"input_tokens": total.input_tokens, "output_tokens": total.output_tokens}
    if total.estimated_tokens:
        metadata["estimated_tokens"] = total.estimated_tokens
    if context.last_completion:
        metadata |= _ending(context.last_completion)
    metadata |= own or {}
    model, tokens = metadata["model_used"], metadata["tokens_used"]
    if not (model is None or isinstance(model, str)):
        raise InvalidOutput("outputs.metadata.model_used must be text or null.")
    if not (tokens is None or (type(tokens) is int and 0 <= tokens <= MAX_TOKENS)):
        raise InvalidOutput(
            f"outputs.metadata.tokens_used must be an integer from 0 to {MAX_TOKENS}, or null."
        )
    if not models and (model or tokens):
        context.usage.add_usage(model or UNKNOWN_MODEL, ModelUsage(0, None, None, tokens))
    return {**outputs, "metadata": metadata}


def _ending(completion: Completion) -> dict[str, Any]:
    """How the last answer ended: complete, cut off, filtered, or as a refusal."""
    ending: dict[str, Any] = {"finish_reason": completion.finish_reason}
    return {**ending, "refusal": completion.refusal} if completion.refusal else ending
