"""Watches the model calls of the runs in this process: counts them for the metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from app.models.base import Completion, ModelError, ModelProvider, Stop


class WatchedModels:
    """A provider around another. `count` is given what each call adds to which counter (see `counters`).

    Models that are not among the known ones count under an empty name: a request can name any.
    """

    def __init__(
        self,
        provider: ModelProvider,
        default_model: str,
        known_models: Collection[str],
        count: Callable[[Mapping[str, int]], None],
    ):
        self._provider, self._default_model, self._count = provider, default_model, count
        self._known = {*known_models, default_model}

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        stop: Stop | None = None,
        **options: Any,
    ) -> Completion:
        """See `ModelProvider`."""
        asked = model or self._default_model
        label = asked if asked in self._known else ""
        counts = {f"mc:{label}": 1}
        try:
            completion = self._provider.complete(messages, model=asked, stop=stop, **options)
            counts |= {
                f"mi:{label}": completion.input_tokens or 0,
                f"mo:{label}": completion.output_tokens or 0,
                f"mr:{label}": completion.retries,
            }
            return completion
        except ModelError as error:
            counts |= {f"mx:{type(error).__name__}:{label}": 1, f"mr:{label}": error.retries}
            raise
        finally:
            self._count({field: amount for field, amount in counts.items() if amount})
