"""Keeps API keys in the store: adds, lists, revokes and finds them.

The `Authenticator` finds keys for requests; the commands of `flask keys` do the rest.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import redis

from app.domain.errors import ServiceError
from app.domain.key import Identity, Key, Scope, digest_id, digest_of, new_key
from app.settings import Settings
from app.store import connection

KEYS = "exec:keys"
"""A hash: the id of a key's digest -> the whole digest and the key's identity, as JSON."""

NAMES = "exec:key-names"
"""A hash: a key's name -> the id of its digest."""


class NameTaken(ServiceError):
    """A key with this name already exists."""


class KeyStore:
    """Safe to use from many threads.

    Every method raises `StoreUnavailable` if the store does not answer. For a second after that, it
    is raised at once, without another try.
    """

    def __init__(self, client: redis.Redis):
        self._client = client
        self._breaker = connection.Breaker()

    @classmethod
    def connect(cls, settings: Settings) -> KeyStore:
        """Opens no connection yet: the first call does."""
        return cls(connection.connect(settings))

    def add(self, identity: Identity) -> str:
        """Creates a key and returns it, for the only time. Raises `NameTaken`."""
        assert identity.key is not None
        name = identity.key
        text = new_key()
        key = Key(digest_of(text.encode()), identity, f"{datetime.now(UTC):%Y-%m-%d}")

        def put(pipe: redis.client.Pipeline) -> None:
            taken_by = pipe.hget(NAMES, name)
            # If the reply to the transaction is lost, the client runs `put` again. The name then
            # already belongs to this very key, which is a success.
            if taken_by not in (None, key.id.encode()):
                raise NameTaken(
                    f"A key with the name {name} already exists. Revoke it, or choose another name."
                )
            pipe.multi()
            pipe.hset(NAMES, name, key.id)
            pipe.hset(KEYS, key.id, _serialized(key))

        with self._breaker.calling():
            # NAMES is watched: if another command adds the name meanwhile, `put` runs again and
            # finds it taken.
            self._client.transaction(put, NAMES)
        return text

    def all(self) -> list[Key]:
        """All keys, sorted by name."""
        with self._breaker.calling():
            entries = self._client.hgetall(KEYS)
        keys = [key for key in map(_parsed, entries.values()) if key]
        return sorted(keys, key=lambda key: str(key.identity.key))

    def revoke(self, name: str) -> bool:
        """Deletes the key with this name. False if there is none."""
        with self._breaker.calling():
            id = self._client.hget(NAMES, name)
            if id is None:
                return False
            with self._client.pipeline() as pipe:  # a transaction: both are deleted, or none
                pipe.hdel(KEYS, id)
                pipe.hdel(NAMES, name)
                pipe.execute()
        return True

    def find(self, digest: str) -> Key | None:
        """The key with this digest, in one round trip."""
        with self._breaker.calling():
            entry = self._client.hget(KEYS, digest_id(digest))
        key = _parsed(entry) if entry else None
        return key if key and key.matches(digest) else None


def _serialized(key: Key) -> str:
    identity = key.identity
    return json.dumps(
        {
            "digest": key.digest,
            "name": identity.key,
            "tenant": identity.tenant,
            "scopes": sorted(identity.scopes),
            "created": key.created,
        }
    )


def _parsed(entry: bytes | str) -> Key | None:
    """None if the entry is not one of ours."""
    try:
        fields = json.loads(entry)
        # After a downgrade, a key may have a scope that this version does not know: it grants
        # nothing, and the key's other scopes keep working.
        scopes = frozenset(Scope(name) for name in fields["scopes"] if name in list(Scope))
        identity = Identity(fields["tenant"], fields["name"], scopes)
        return Key(fields["digest"], identity, fields["created"])
    except (ValueError, KeyError, TypeError):
        return None
