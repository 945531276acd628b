"""What an API key is: its form, its digest, whom it identifies, what it may do. No library, no store, no clock.

Keys are kept as plain SHA-256 digests. A slow hash protects what people choose and others can guess; a key
made here has 256 random bits, which nobody can try out, and a slow hash would cost every request its time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

DEFAULT_TENANT = "default"

PREFIX = "exkey_"
"""By which people, scanners of repositories and the mask in our logs know a key."""

KEY_SYMBOLS = 43  # of 62: 256 bits
MIN_KEY_CHARACTERS = 16

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}")
"""Names of keys and tenants. A tenant's name is part of the store's keys, where `:` separates."""

_SYMBOLS = string.ascii_letters + string.digits
_CHOSEN = re.compile(
    r"[!-+\--~]+"
)  # visible ASCII without the comma, which separates keys and repeated headers


class Scope(StrEnum):
    """What a key may do. None includes another."""

    START = "start"
    READ = "read"
    CANCEL = "cancel"
    ADMIN = "admin"


EVERYTHING = frozenset(Scope)
USUAL = frozenset({Scope.START, Scope.READ, Scope.CANCEL})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. `key` is the key's name, None where no key is wanted."""

    tenant: str
    key: str | None
    scopes: frozenset[Scope]


ANYONE = Identity(DEFAULT_TENANT, None, EVERYTHING)
"""Who asks where no key is wanted."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: never the key itself. `created` is its day in UTC, None for one of the environment."""

    digest: str
    identity: Identity
    created: str | None = None

    @property
    def id(self) -> str:
        return digest_id(self.digest)

    def matches(self, digest: str) -> bool:
        """In a time that does not depend on where the two differ."""
        return hmac.compare_digest(self.digest, digest)


def new_key() -> str:
    """A key that nobody has."""
    return PREFIX + "".join(secrets.choice(_SYMBOLS) for _ in range(KEY_SYMBOLS))


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def digest_id(digest: str) -> str:
    """The half of a digest by which a key is looked up; the other half is compared afterwards."""
    return digest[:32]


def parse_scopes(text: str) -> frozenset[Scope]:
    """Of `start,read`. Raises `ValueError` with a sentence."""
    names = [each.strip() for each in text.split(",")]
    unknown = [each for each in names if each not in list(Scope)]
    if unknown:
        raise ValueError(f"There is no scope {unknown[0]!r}; there are: {', '.join(Scope)}.")
    return frozenset(map(Scope, names))


def show_scopes(scopes: Iterable[Scope]) -> str:
    return ",".join(each for each in Scope if each in scopes)


def parse_environment(text: str) -> tuple[Key, ...]:
    """The keys of `API_KEYS`: `tenant:key,tenant:key`; the tenant may be left out. They may do all but `admin`.

    Raises `ValueError` with a sentence that names the entry by its place, and never shows it.
    """
    keys: dict[str, Key] = {}
    for place, entry in enumerate(text.split(","), 1):
        tenant, _, key = entry.strip().rpartition(":")
        tenant = tenant or DEFAULT_TENANT
        if not NAME.fullmatch(tenant):
            raise ValueError(
                f"Entry {place} must be tenant:key; a tenant has letters, digits, '.', '_' and '-'."
            )
        if len(key) < MIN_KEY_CHARACTERS or not _CHOSEN.fullmatch(key):
            raise ValueError(
                f"The key of entry {place} must be {MIN_KEY_CHARACTERS} visible ASCII characters or more."
            )
        found = Key(digest_of(key.encode()), Identity(tenant, f"API_KEYS[{place}]", USUAL))
        if found.id in keys:
            raise ValueError(f"Entry {place} repeats a key.")
        keys[found.id] = found
    return tuple(keys.values())


def chosen_keys(text: str) -> tuple[str, ...]:
    """The keys themselves of `API_KEYS`, so that a log can mask them."""
    return tuple(entry.strip().rpartition(":")[2] for entry in text.split(",") if entry)
