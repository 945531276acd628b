"""What model calls cost, and the budget that a run may spend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
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

    def add(self, completion: Completion) -> None:
        """One answered call; tokens that the server did not report count as none."""
        tokens = (completion.input_tokens or 0, completion.output_tokens or 0, completion.total_tokens or 0)
        self.add_usage(completion.model, ModelUsage(1, *tokens))

    def add_usage(self, model: str, more: ModelUsage) -> None:
        with self._lock:
            self._models[model] = _sum(self._models.get(model, ModelUsage()), more)
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
        """Over all models."""
        summed = ModelUsage()
        for each in self.models.values():
            summed = _sum(summed, each)
        return summed


def _sum(one: ModelUsage, other: ModelUsage) -> ModelUsage:
    return ModelUsage(
        one.calls + other.calls,
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.total_tokens + other.total_tokens,
    )


class Budget:
    """`config.budget`, held against what a run has used. Every method raises `BudgetExceeded`.

    `max_tokens` and `max_seconds` are looked at before each model call and each step; what is under way is
    not cut off, so that calls that are made side by side may together pass the limit by themselves.
    `max_steps` bounds the steps of a pipeline and, of an agent, the model calls. What earlier attempts, and
    the execution that a retry goes on from, used counts as used; the seconds are those of this attempt.
    """

    def __init__(self, limits: Mapping[str, Any], usage: Usage, counts_calls: bool):
        self._limits, self._usage, self._counts_calls = limits, usage, counts_calls
        self._began_at = time.monotonic()

    def before_call(self) -> None:
        used = self._usage.total
        self._hold("max_tokens", used.total_tokens, "tokens")
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
            raise BudgetExceeded(f"The run has used {used:g} {what}; config.budget.{name} is {limit:g}.")
