"""Keys in a real store: what is kept, what a lost answer does, what garbage does."""

from __future__ import annotations

import pytest
import redis

from app.keys import store as keys
from app.keys.model import Identity, Scope, digest_id, digest_of
from app.keys.ring import KeyRing
from app.keys.store import KeyStore, NameTaken
from app.settings import Settings

SHOP = Identity("acme", "shop", frozenset({Scope.READ}))


def test_a_key_is_found_by_its_digest_and_is_nowhere_in_the_store(
    redis_client: redis.Redis,
) -> None:
    store = KeyStore(redis_client)
    text = store.add(SHOP)
    found = store.find(digest_of(text.encode()))
    assert found is not None
    assert found.identity == SHOP
    kept = repr([redis_client.dump(name) for name in redis_client.scan_iter()]) + repr(
        redis_client.hgetall(keys.KEYS)
    )
    assert text.removeprefix("exkey_") not in kept


def test_half_a_digest_is_not_enough(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    digest = digest_of(store.add(SHOP).encode())
    assert store.find(digest_id(digest) + "0" * 32) is None


def test_a_name_is_given_once_until_it_is_revoked(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    first = store.add(SHOP)
    with pytest.raises(NameTaken, match="shop"):
        store.add(SHOP)
    assert store.revoke("shop")
    assert not store.revoke("shop")
    assert store.find(digest_of(first.encode())) is None
    store.add(SHOP)
    assert [each.identity.key for each in store.all()] == ["shop"]


def test_what_makes_no_sense_is_no_key(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    digest = digest_of(store.add(SHOP).encode())
    for garbage in ("", "{", "[]", "{}", '{"digest": 5, "scopes": []}'):
        redis_client.hset(keys.KEYS, digest_id(digest), garbage)
        assert store.find(digest) is None
    assert store.all() == []


def test_a_scope_of_a_later_version_gives_nothing(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    digest = digest_of(store.add(SHOP).encode())
    written = (
        redis_client.hget(keys.KEYS, digest_id(digest)).decode().replace('"read"', '"read", "rule"')
    )
    redis_client.hset(keys.KEYS, digest_id(digest), written)
    found = store.find(digest)
    assert found is not None
    assert found.identity.scopes == {Scope.READ}


def test_the_ring_knows_a_key_by_its_whole_digest_alone(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    ring = KeyRing(Settings(api_keys="acme:0123456789abcdef"), store)
    made, chosen = digest_of(store.add(SHOP).encode()), digest_of(b"0123456789abcdef")
    assert ring.known(made) is None  # not before it was looked up
    assert ring.look_up(made) == SHOP
    for digest in (made, chosen):
        assert ring.known(digest) is not None
        assert ring.known(digest_id(digest) + "0" * 32) is None
