"""The functions of an empty store, called as the service's parts call them."""

from __future__ import annotations

import pytest
import redis

from tests.store.driver import Driver


@pytest.fixture
def driver(redis_client: redis.Redis) -> Driver:
    return Driver(redis_client)
