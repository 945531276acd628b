"""Fixture of the store tests: calls the Lua functions as the web side and workers do."""

from __future__ import annotations

import pytest
import redis

from tests.store.driver import Driver


@pytest.fixture
def driver(redis_client: redis.Redis) -> Driver:
    return Driver(redis_client)
