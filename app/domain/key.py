"""Defines an API key: its form, its digest, and the identity and scopes it grants.

Pure functions and values, used by the store, the authenticator, the commands and the settings.

Keys are stored as plain SHA-256 digests. A slow hash protects passwords, which people choose and
others can guess. A key made here has 256 random bits, which nobody can guess, and a slow hash would
make every request slower.
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

# The prefix lets people, secret scanners and the mask of our own logs recognize a key.
PREFIX = "exkey_"

KEY_SYMBOLS = 43  # of an alphabet of 62: just over 256 bits

# For keys that an operator chooses (API_KEYS): shorter ones could be guessed despite the throttle.
MIN_KEY_CHARACTERS = 16

# For keys and tenants. A tenant's name is part of keys in the store, where `:` is the separator.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}")

_SYMBOLS = string.ascii_letters + string.digits

# Visible ASCII but the comma, which separates the entries of API_KEYS and repeated HTTP headers.
_CHOSEN_KEY = re.compile(r"[!-+\--~]+")


class Scope(StrEnum):
    """A permission of a key. No scope includes another."""

    START = "start"
    READ = "read"
    CANCEL = "cancel"
    ADMIN = "admin"


EVERYTHING = frozenset(Scope)
USUAL = frozenset({Scope.START, Scope.READ, Scope.CANCEL})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends a request. `key` is the name of the key, None if the service requires no keys."""

    tenant: str
    key: str | None
    scopes: frozenset[Scope]


ANYONE = Identity(DEFAULT_TENANT, None, EVERYTHING)
"""The identity of every request if the service requires no keys."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored: its digest, never the key itself.

    `created` is a date in UTC (`2025-01-31`), None for a key from `API_KEYS`.
    """

    digest: str
    identity: Identity
    created: str | None = None

    @property
    def id(self) -> str:
        return digest_id(self.digest)

    def matches(self, digest: str) -> bool:
        """Compares in constant time, so that response times reveal nothing about a digest."""
        return hmac.compare_digest(self.digest, digest)


def new_key() -> str:
    """A new random key."""
    return PREFIX + "".join(secrets.choice(_SYMBOLS) for _ in range(KEY_SYMBOLS))


def digest_of(key: bytes) -> str:
    """SHA-256 in 64 hex digits."""
    return hashlib.sha256(key).hexdigest()


def digest_id(digest: str) -> str:
    """The half of a digest that a key is looked up by; `Key.matches` compares the rest."""
    return digest[:32]


def parse_scopes(text: str) -> frozenset[Scope]:
    """Reads `start,read`. Raises `ValueError` with a sentence for the user."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in list(Scope)]
    if unknown:
        raise ValueError(f"Unknown scope {unknown[0]!r}. The scopes are: {', '.join(Scope)}.")
    return frozenset(map(Scope, names))


def show_scopes(scopes: Iterable[Scope]) -> str:
    """The inverse of `parse_scopes`, in the order of `Scope`."""
    return ",".join(scope for scope in Scope if scope in scopes)


def parse_environment(text: str) -> tuple[Key, ...]:
    """Reads `API_KEYS`: `tenant:key,tenant:key`, where `tenant:` is optional.

    The keys get every scope but `admin`. Raises `ValueError` with a sentence for the operator. It
    names the wrong entry by its position and never contains the key, since it ends up in logs.
    """
    keys: dict[str, Key] = {}
    for position, entry in enumerate(text.split(","), 1):
        # Split at the last colon: a wrong tenant such as `a:b` is then named as the mistake.
        tenant, _, chosen = entry.strip().rpartition(":")
        tenant = tenant or DEFAULT_TENANT
        if not NAME.fullmatch(tenant):
            raise ValueError(
                f"Entry {position} must have the form tenant:key. A tenant's name consists of"
                " letters, digits, '.', '_' and '-'."
            )
        if len(chosen) < MIN_KEY_CHARACTERS or not _CHOSEN_KEY.fullmatch(chosen):
            raise ValueError(
                f"The key in entry {position} must have at least {MIN_KEY_CHARACTERS} visible"
                " ASCII characters."
            )
        key = Key(digest_of(chosen.encode()), Identity(tenant, f"API_KEYS[{position}]", USUAL))
        if key.id in keys:
            raise ValueError(f"Entry {position} repeats an earlier key.")
        keys[key.id] = key
    return tuple(keys.values())


def chosen_keys(text: str) -> tuple[str, ...]:
    """The keys in `API_KEYS` as they were written, so that the log can mask them."""
    return tuple(entry.strip().rpartition(":")[2] for entry in text.split(",") if entry)
