"""Finds out which tenant and scopes an API key stands for.

Every web process has one `Authenticator`; `app.api.access` asks it once per request. Keys come from
the variable `API_KEYS` and from the store, whose answers are cached for a moment.
"""

from __future__ import annotations

import time

from app.domain.key import Identity, Key, digest_id, parse_environment
from app.settings import Settings
from app.store.keys import KeyStore

# How long a key from the store is trusted without asking again. A revoked key stops working within
# this time, and a client that sends many requests costs the store one lookup per interval.
CACHE_SECONDS = 2.0


class Authenticator:
    """Safe to use from many threads. Caches valid keys only, so invalid ones use no memory."""

    def __init__(self, settings: Settings, store: KeyStore):
        self.required = settings.keys_required
        self._store = store
        environment = parse_environment(settings.api_keys) if settings.api_keys else ()
        self._environment_keys = {key.id: key for key in environment}
        # digest id -> (monotonic time until which the key is trusted, key)
        self._cache: dict[str, tuple[float, Key]] = {}

    def known(self, digest: str) -> Identity | None:
        """The owner of the key, if this process knows it now; never asks the store."""
        id = digest_id(digest)
        key = self._environment_keys.get(id) or self._cached_key(id)
        # The id is half of the digest. The whole digest is compared in constant time, so that
        # response times do not show how much of a guess was right.
        return key.identity if key and key.matches(digest) else None

    def has_seen(self, digest: str) -> bool:
        """Whether the key was valid when the store was last asked for it, however long ago."""
        return digest_id(digest) in self._cache

    def look_up(self, digest: str) -> Identity | None:
        """The owner of the key, or None if the key is invalid: one round trip to the store.

        Raises `StoreUnavailable`.
        """
        # Taken before the lookup: a key that is revoked while the reply travels is not trusted
        # for longer than CACHE_SECONDS after its revocation.
        until = time.monotonic() + CACHE_SECONDS
        key = self._store.find(digest)
        if key is None:
            self._cache.pop(digest_id(digest), None)
            return None
        # An expired entry stays for `has_seen`; there is at most one per key that was ever valid.
        self._cache[key.id] = (until, key)
        return key.identity

    def _cached_key(self, id: str) -> Key | None:
        until, key = self._cache.get(id, (0.0, None))
        return key if time.monotonic() < until else None
