"""The keys in the store: made, listed, revoked, looked up. Whom a request's key identifies is asked in `ring`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import redis

from app.errors import ServiceError
from app.executions import connection
from app.keys.model import Identity, Key, Scope, digest_id, digest_of, new_key
from app.settings import Settings

KEYS = "exec:keys"
"""A hash: half of a key's digest -> the rest of it and whom it identifies, as JSON."""

NAMES = "exec:key-names"
"""A hash: a key's name -> half of its digest."""


class NameTaken(ServiceError):
    """There is a key with this name."""


class KeyStore:
    """Safe to use from many threads. Raises `StoreUnavailable`; after that, at once for a second."""

    def __init__(self, client: redis.Redis):
        self._client, self._breaker = client, connection.Breaker()

    @classmethod
    def connect(cls, settings: Settings) -> KeyStore:
        """Opens no connection yet: the first call does."""
        return cls(connection.connect(settings))

    def add(self, identity: Identity) -> str:
        """Makes a key and returns it, for the only time. Raises `NameTaken`."""
        assert identity.key is not None
        name, text = identity.key, new_key()
        key = Key(digest_of(text.encode()), identity, f"{datetime.now(UTC):%Y-%m-%d}")

        def put(pipe: redis.client.Pipeline) -> None:
            taken_by = pipe.hget(NAMES, name)
            if taken_by not in (
                None,
                key.id.encode(),
            ):  # its own id: a repeat, as the answer to the first was lost
                raise NameTaken(
                    f"There is a key with the name {name}. Revoke it, or choose another name."
                )
            pipe.multi()
            pipe.hset(NAMES, name, key.id)
            pipe.hset(KEYS, key.id, _written(key))

        with self._breaker.calling():
            self._client.transaction(put, NAMES)
        return text

    def all(self) -> list[Key]:
        """Every key, by name."""
        with self._breaker.calling():
            found = self._client.hgetall(KEYS)
        keys = [each for each in map(_read, found.values()) if each]
        return sorted(keys, key=lambda each: str(each.identity.key))

    def revoke(self, name: str) -> bool:
        """False where there is no such key."""
        with self._breaker.calling():
            id = self._client.hget(NAMES, name)
            if id is None:
                return False
            with self._client.pipeline() as pipe:
                pipe.hdel(KEYS, id)
                pipe.hdel(NAMES, name)
                pipe.execute()
        return True

    def find(self, digest: str) -> Key | None:
        """The key with this digest, in one round trip."""
        with self._breaker.calling():
            written = self._client.hget(KEYS, digest_id(digest))
        key = _read(written) if written else None
        return key if key and key.matches(digest) else None


def _written(key: Key) -> str:
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


def _read(written: bytes | str) -> Key | None:
    """None where it makes no sense. A scope that this version does not know gives nothing."""
    try:
        fields = json.loads(written)
        scopes = frozenset(Scope(each) for each in fields["scopes"] if each in list(Scope))
        return Key(
            fields["digest"], Identity(fields["tenant"], fields["name"], scopes), fields["created"]
        )
    except (ValueError, KeyError, TypeError):
        return None
