"""The provider of models, which calls the stand-in of a model server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.providers.openai_provider import OpenAIProvider
from app.settings import Settings
from tests.support.model_server import ModelServer


@pytest.fixture
def provider(model: ModelServer) -> Iterator[Callable[..., OpenAIProvider]]:
    """Makes providers with these settings besides their own."""
    made: list[OpenAIProvider] = []

    def make(**settings: Any) -> OpenAIProvider:
        plain = {
            "openai_base_url": model.url,
            "openai_api_key": "sk-test-key",
            "model_timeout": 30.0,
        }
        made.append(OpenAIProvider(Settings(**{**plain, **settings})))
        return made[-1]

    yield make
    for provider in made:
        provider.close()
