"""What model calls cost, and the budget that a run may spend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from app.executions.model import ModelUsage
from app.models.base import Completion

UNKNOWN_MODEL = "unknown"
"""What tokens are booked under that a flow reports without naming a model."""


class BudgetExceeded(BaseException):
    """The run spent what `config.budget` allows. Not an `Exception`, so that no flow swallows it."""


class Usage:
    """Calls and tokens by model. What is added here is added to `parent` too. Safe to use from many threads."""

    def __init__(self, parent: Usage | None = None, before: Mapping[str, ModelUsage] | None = None):
        self._parent, self._lock = parent, threading.Lock()
        self._models = dict(before or {})
        self.on_change: Callable[[Usage], None] = lambda _: None

    def add(self, completion: Completion, estimated_tokens: int) -> None:
        """One answered call. The estimate counts where the server reported nothing."""
        tokens = (completion.input_tokens, completion.output_tokens, completion.total_tokens)
        self.add_usage(
            completion.model,
            ModelUsage(1, *tokens, estimated_tokens if completion.total_tokens is None else 0),
        )

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
        """Over all models; zeros where none was used."""
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
    """None only where both are: a call without a report takes nothing from the others."""
    return other if one is None else one if other is None else one + other


class Budget:
    """`config.budget`, held against what a run has used. Every method raises `BudgetExceeded`.

    `max_tokens` and `max_seconds` are looked at before each model call and each step; what is under way is
    not cut off, so that calls that are made side by side may together pass the limit by themselves.
    `max_steps` bounds the steps of a pipeline and, of an agent, the model calls. What earlier attempts, and
    the execution that a retry goes on from, used counts as used; the seconds are those of this attempt.
    Where a server reports no tokens, an estimate counts, so that no limit is without effect.
    """

    def __init__(self, limits: Mapping[str, Any], usage: Usage, counts_calls: bool):
        self._limits, self._usage, self._counts_calls = limits, usage, counts_calls
        self._began_at = time.monotonic()

    def before_call(self) -> None:
        used = self._usage.total
        guessed = (
            f" ({used.estimated_tokens} of them estimated, as the model's server reports none)"
        )
        tokens = (used.total_tokens or 0) + used.estimated_tokens
        self._hold("max_tokens", tokens, f"tokens{guessed if used.estimated_tokens else ''}")
        self._hold("max_seconds", round(time.monotonic() - self._began_at, 1), "seconds")
        if self._counts_calls:
            self._hold("max_steps", used.calls, "model calls")

    def before_step(self, steps_run: int) -> None:
        """`steps_run`: how many steps have been run, or are running."""
        self.before_call()
        self._hold("max_steps", steps_run, "steps")

    def _hold(self, name: str, used: float, what: str) -> None:
        limit = self._limits.get(name)
        if limit is not None and used >= limit:
            raise BudgetExceeded(
                f"The run has used {used:g} {what}; config.budget.{name} is {limit:g}."
            )
