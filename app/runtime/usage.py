"""Counts the model calls and tokens of a run, and holds it to `config.budget`.

Each run, step and flow has a `Usage`; `context.py` adds every answered model call, and asks the
`Budget` before it. The pipeline asks it before each step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from app.domain.execution import ModelUsage
from app.providers.base import Completion

UNKNOWN_MODEL = "unknown"
"""The name for tokens that a flow reports in its `metadata` without naming a model."""


class BudgetExceeded(BaseException):
    """The run has spent its `config.budget`. Not an `Exception`, so that no flow swallows it."""


class Usage:
    """Calls and tokens by model. What is added here is added to `parent`, too. Thread-safe.

    `on_change` is called after each change, in the thread that made it.
    """

    def __init__(self, parent: Usage | None = None, before: Mapping[str, ModelUsage] | None = None):
        self._parent = parent
        self._lock = threading.Lock()
        self._models = dict(before or {})
        self.on_change: Callable[[Usage], None] = lambda _: None

    def add(self, completion: Completion, estimated_tokens: int) -> None:
        """Adds one answered call. The estimate counts if the server reported no tokens."""
        tokens = (completion.input_tokens, completion.output_tokens, completion.total_tokens)
        estimate = estimated_tokens if completion.total_tokens is None else 0
        self.add_usage(completion.model, ModelUsage(1, *tokens, estimate))

    def add_usage(self, model: str, more: ModelUsage) -> None:
        with self._lock:
            before = self._models.get(model)
            self._models[model] = _sum(before, more) if before else more
        self.on_change(self)
        if self._parent:
            self._parent.add_usage(model, more)

    @property
    def models(self) -> dict[str, ModelUsage]:
        """By name, in the order of their first call."""
        with self._lock:
            return dict(self._models)

    @property
    def total(self) -> ModelUsage:
        """The sum over all models; zeros if none was used."""
        return reduce(_sum, self.models.values()) if self.models else ModelUsage()


def _sum(one: ModelUsage, other: ModelUsage) -> ModelUsage:
    return ModelUsage(
        one.calls + other.calls,
        _known_sum(one.input_tokens, other.input_tokens),
        _known_sum(one.output_tokens, other.output_tokens),
        _known_sum(one.total_tokens, other.total_tokens),
        one.estimated_tokens + other.estimated_tokens,
    )


def _known_sum(one: int | None, other: int | None) -> int | None:
    """None only if both are: a call without a report takes nothing from the others."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


class Budget:
    """Compares what a run has used with `config.budget`. Both methods raise `BudgetExceeded`.

    `max_tokens` and `max_seconds` are checked before each model call, each step, and each item of a
    batch. Calls in progress are not cut off, so calls that run at the same time may together pass
    the limit.
    `max_steps` bounds the steps of a pipeline or, of an agent, its model calls (`counts_calls`).

    Tokens and steps of earlier attempts, and of the execution that a retry goes on from, count as
    used. Seconds are those of this attempt. If a server reports no tokens, an estimate counts, so
    that every limit has an effect.
    """

    def __init__(self, limits: Mapping[str, Any], usage: Usage, counts_calls: bool):
        self._limits = limits
        self._usage = usage
        self._counts_calls = counts_calls
        self._began_at = time.monotonic()

    def before_call(self) -> None:
        used = self._usage.total
        what = "tokens"
        if used.estimated_tokens:
            what += f" ({used.estimated_tokens} of them estimated: the model's server reports none)"
        self._check("max_tokens", (used.total_tokens or 0) + used.estimated_tokens, what)
        self._check("max_seconds", round(time.monotonic() - self._began_at, 1), "seconds")
        if self._counts_calls:
            self._check("max_steps", used.calls, "model calls")

    def before_step(self, steps_run: int) -> None:
        """`steps_run`: how many other steps were started, by this attempt or an earlier one."""
        self.before_call()
        self._check("max_steps", steps_run, "steps")

    def _check(self, name: str, used: float, what: str) -> None:
        limit = self._limits.get(name)
        # Equal is too much already: the check comes before the next call or step.
        if limit is not None and used >= limit:
            raise BudgetExceeded(
                f"The run has used {used:g} {what}; config.budget.{name} is {limit:g}."
            )
