"""Counts and traces the model calls of runs. `child` wraps its provider in them.

`WatchedModels` and what `traced` returns are providers themselves: the runtime knows no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from app.providers.base import Completion, ModelError, ModelProvider, Stop
from app.telemetry.tracing import Tracing


class WatchedModels:
    """A provider that counts the calls of another. `count` gets the increments of each call, by
    the names of counters in `app.store.counters`.

    Unknown models count under an empty name: a request can name any model, and every name would
    become a time series of its own.
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
        stop_signal: Stop | None = None,
        **options: Any,
    ) -> Completion:
        """See `ModelProvider`."""
        asked = model or self._default_model
        label = asked if asked in self._known else ""
        counts = {f"mc:{label}": 1}
        try:
            completion = self._provider.complete(
                messages, model=asked, stop_signal=stop_signal, **options
            )
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


def traced(
    provider: ModelProvider, tracing: Tracing, parent: str | None, default_model: str
) -> ModelProvider:
    """Returns a provider for one run, whose calls become spans under `parent`; `provider` itself if
    nothing is traced.
    """
    return _TracedModels(provider, tracing, parent, default_model) if tracing.enabled else provider


class _TracedModels:
    """A provider that makes a span of each call. Attributes have the names of OpenTelemetry's
    conventions for generative AI. Prompts and answers are left out: they may be confidential.
    """

    def __init__(
        self, provider: ModelProvider, tracing: Tracing, parent: str | None, default_model: str
    ):
        self._provider = provider
        self._tracing = tracing
        self._parent = parent
        self._default_model = default_model

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        stop_signal: Stop | None = None,
        **options: Any,
    ) -> Completion:
        """See `ModelProvider`."""
        asked, error_type = model or self._default_model, None
        span = self._tracing.start(
            f"chat {asked}",
            "client",
            self._parent,
            gen_ai__operation__name="chat",
            gen_ai__provider__name="openai",
            gen_ai__request__model=asked,
            gen_ai__request__temperature=options.get("temperature"),
            gen_ai__request__max_tokens=options.get("max_completion_tokens")
            or options.get("max_tokens"),
        )
        try:
            completion = self._provider.complete(
                messages, model=asked, stop_signal=stop_signal, **options
            )
            span.set(
                gen_ai__response__model=completion.model,
                gen_ai__usage__input_tokens=completion.input_tokens,
                gen_ai__usage__output_tokens=completion.output_tokens,
            )
            return completion
        except BaseException as error:
            error_type = type(error).__name__
            raise
        finally:
            span.end(error_type)
