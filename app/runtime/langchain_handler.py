"""LangChain's callback handler: counts and shows model calls, checks the budget, heeds a stop.

Needs LangChain, so only `langchain.py` imports it, and only once a flow has imported LangChain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from app.providers.base import Completion, Stopped
from app.providers.token_counts import token_counts
from app.runtime.langchain import NodeProgress, current, is_node_name
from app.runtime.messages import texts_of
from app.runtime.usage import UNKNOWN_MODEL

_IN_A_GRAPH_OF_A_NODE = "|"
"""Stands in the namespace of nodes whose graph runs inside of another graph's node."""


class Handler(BaseCallbackHandler):
    """One for all runs of the process. Outside of a flow it does nothing."""

    run_inline = True  # in the thread or task of the run, which a budget or a stop has to end
    ignore_retriever = True
    ignore_retry = True
    ignore_custom_event = True

    def on_chain_start(
        self,
        serialized: Any,
        inputs: Any,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        _heed_stop()
        nodes, name = _nodes(), more.get("name")
        if nodes and isinstance(name, str) and _is_node(name, tags or (), metadata or {}):
            nodes.start(run_id, name)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **more: Any) -> None:
        if nodes := _nodes():
            nodes.end(run_id, failed=False)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        if nodes := _nodes():
            nodes.end(run_id, failed=True)

    def on_tool_start(self, serialized: Any, input_str: str, **more: Any) -> None:
        _heed_stop()

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[BaseMessage]], *, run_id: UUID, **more: Any
    ) -> None:
        contents = [{"content": message.content} for batch in messages for message in batch]
        _before_call(run_id, texts_of(contents))

    def on_llm_start(
        self, serialized: Any, prompts: list[str], *, run_id: UUID, **more: Any
    ) -> None:
        _before_call(run_id, prompts)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **more: Any) -> None:
        run = current()
        if run and token and isinstance(token, str):
            run.show(run_id, token)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **more: Any) -> None:
        if run := current():
            run.context.count(_completion(response), run.end_call(run_id))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        if run := current():
            run.end_call(run_id)


def _before_call(run_id: UUID, texts: list[str]) -> None:
    if run := current():
        _heed_stop()
        run.context.check_budget()
        run.sent[run_id] = texts


def _heed_stop() -> None:
    run = current()
    if run and run.context.cancelled:
        raise Stopped


def _nodes() -> NodeProgress | None:
    run = current()
    return run.nodes if run else None


def _is_node(name: str, tags: Iterable[str], metadata: Mapping[str, Any]) -> bool:
    """Whether a run is a node of the flow's graph. What runs inside a node has the same metadata.

    Nodes of a graph inside a node are no steps: how many there are depends on the outer node.
    """
    return (
        name == metadata.get("langgraph_node")
        and is_node_name(name)
        and any(tag.startswith("graph:step:") for tag in tags)
        and _IN_A_GRAPH_OF_A_NODE not in str(metadata.get("langgraph_checkpoint_ns", ""))
    )


def _completion(response: LLMResult) -> Completion:
    """What a model's integration reports of a call. Names differ, and anything may be missing."""
    of_call = response.llm_output or {}
    generation = response.generations[0][0]
    message = getattr(generation, "message", None)
    reported = {**of_call, **(getattr(message, "response_metadata", None) or {})}
    counts = token_counts(
        {
            "usage_metadata": getattr(message, "usage_metadata", None),
            "usage": reported.get("usage"),
            "token_usage": reported.get("token_usage"),
        }
    )
    extra = getattr(message, "additional_kwargs", None) or {}
    return Completion(
        text=generation.text,
        model=_text(reported, "model_name", "model", "model_id") or UNKNOWN_MODEL,
        input_tokens=counts.input,
        output_tokens=counts.output,
        total_tokens=counts.total,
        finish_reason=_text(reported, "finish_reason", "stop_reason", "done_reason"),
        refusal=_text(extra, "refusal"),
        tool_calls=[dict(call) for call in getattr(message, "tool_calls", None) or ()],
    )


def _text(values: Mapping[str, Any], *names: str) -> str | None:
    found = (values.get(name) for name in names)
    return next((value for value in found if isinstance(value, str) and value), None)
