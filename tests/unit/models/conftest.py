"""The provider of models, and a stand-in for the server that it calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.providers.openai_provider import OpenAIProvider
from app.settings import Settings
from tests.support.model_server import ModelServer


@pytest.fixture(scope="module")
def running() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def server(running: ModelServer) -> ModelServer:
    running.begin()
    return running


@pytest.fixture
def provider(server: ModelServer) -> Iterator[Callable[..., OpenAIProvider]]:
    """Makes providers with these settings besides their own."""
    made: list[OpenAIProvider] = []

    def make(**settings: Any) -> OpenAIProvider:
        plain = {
            "openai_base_url": server.url,
            "openai_api_key": "sk-test-key",
            "model_timeout": 30.0,
        }
        made.append(OpenAIProvider(Settings(**{**plain, **settings})))
        return made[-1]

    yield make
    for provider in made:
        provider.close()
