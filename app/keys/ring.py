"""Whom a key identifies, for the web process: the keys of the environment, those of the store, and a short memory."""

from __future__ import annotations

import time

from app.keys.model import Identity, Key, digest_id, parse_environment
from app.keys.store import KeyStore
from app.settings import Settings

REMEMBERED_SECONDS = 2.0
"""A key of the store is asked for again after so long: so soon does a revoked one stop to work."""


class KeyRing:
    """Safe to use from many threads. Holds only keys that were right, so wrong ones take no memory."""

    def __init__(self, settings: Settings, store: KeyStore):
        self.required = settings.keys_required
        self._store = store
        self._fixed = (
            {each.id: each for each in parse_environment(settings.api_keys)}
            if settings.api_keys
            else {}
        )
        self._seen: dict[str, tuple[float, Key]] = {}

    def known(self, digest: str) -> Identity | None:
        """Whom it identifies, as far as that is known here and now: no round trip."""
        key = self._fixed.get(digest_id(digest)) or self._remembered(digest_id(digest))
        return key.identity if key and key.matches(digest) else None

    def has_seen(self, digest: str) -> bool:
        """Whether it was right the last time that it was asked for, however long ago."""
        return digest_id(digest) in self._seen

    def look_up(self, digest: str) -> Identity | None:
        """Whom it identifies, None where it is no key: one round trip. Raises `StoreUnavailable`."""
        until = (
            time.monotonic() + REMEMBERED_SECONDS
        )  # from before it was asked for: it may be revoked meanwhile
        key = self._store.find(digest)
        if key is None:
            self._seen.pop(digest_id(digest), None)
            return None
        self._seen[key.id] = (until, key)
        return key.identity

    def _remembered(self, id: str) -> Key | None:
        until, key = self._seen.get(id, (0.0, None))
        return key if time.monotonic() < until else None
