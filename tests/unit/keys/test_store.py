"""API keys in a real store: what is stored there, unreadable entries, and the authenticator."""

from __future__ import annotations

import pytest
import redis

from app.domain.key import Identity, Scope, digest_id, digest_of
from app.services.authentication import Authenticator
from app.settings import Settings
from app.store import keys
from app.store.keys import KeyStore, NameTaken

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


def test_a_name_can_be_used_again_only_after_its_key_is_revoked(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    first = store.add(SHOP)
    with pytest.raises(NameTaken, match="shop"):
        store.add(SHOP)
    assert store.revoke("shop")
    assert not store.revoke("shop")
    assert store.find(digest_of(first.encode())) is None
    store.add(SHOP)
    assert [key.identity.key for key in store.all()] == ["shop"]


def test_an_unreadable_entry_is_no_key(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    digest = digest_of(store.add(SHOP).encode())
    for garbage in ("", "{", "[]", "{}", '{"digest": 5, "scopes": []}'):
        redis_client.hset(keys.KEYS, digest_id(digest), garbage)
        assert store.find(digest) is None
    assert store.all() == []


def test_a_scope_of_a_later_version_grants_nothing(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    digest = digest_of(store.add(SHOP).encode())
    written = (
        redis_client.hget(keys.KEYS, digest_id(digest)).decode().replace('"read"', '"read", "rule"')
    )
    redis_client.hset(keys.KEYS, digest_id(digest), written)
    found = store.find(digest)
    assert found is not None
    assert found.identity.scopes == {Scope.READ}


def test_the_authenticator_compares_the_whole_digest(redis_client: redis.Redis) -> None:
    store = KeyStore(redis_client)
    authenticator = Authenticator(Settings(api_keys="acme:0123456789abcdef"), store)
    made, chosen = digest_of(store.add(SHOP).encode()), digest_of(b"0123456789abcdef")
    assert authenticator.known(made) is None  # nobody has looked it up yet
    assert authenticator.look_up(made) == SHOP
    for digest in (made, chosen):
        assert authenticator.known(digest) is not None
        assert authenticator.known(digest_id(digest) + "0" * 32) is None
