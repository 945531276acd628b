"""Connects to the store, and translates its errors into those of `app.domain.errors`.

Every class that calls the store gets its client here, after a fork and never before: two processes
must not share a connection.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.domain.errors import StoreBusy, StoreFull, StoreRefused, StoreUnavailable
from app.settings import Settings
from app.store import sentinel
from app.store.scripts import NOT_FOUND
from app.store.store_format import NEWER, REFUSAL

CALL_TIMEOUT_SECONDS = 0.8
"""The timeout of one try of a call. With one repeat, every request is answered within 2 s."""

BREAK_SECONDS = 1.0
"""How long calls fail at once after one that did not reach the store."""

# Beginnings of the store's error messages.
_FULL = ("OOM ", "MISCONF", "OutOfMemory")
_AWAY = (
    "LOADING",
    NOT_FOUND,
    "READONLY",
    "UNBLOCKED",
    "MASTERDOWN",
    "BUSY",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "Script killed",
)
_NOT_NOW = (redis.ReadOnlyError, redis.BusyLoadingError)

_FORBIDDEN = ("NoPermissionError", "ACL failure in script", "The user executing the script can't")
"""Errors of a command, of a command in a function, and the latter in older stores."""


_SERVES_NOBODY = (
    ConnectionRefusedError,
    ConnectionResetError,
    FileNotFoundError,
    redis.ReadOnlyError,
    redis.BusyLoadingError,
    StoreFull,
)


class NotSent(redis.RedisError):
    """A call waited too long behind others of its process. This says nothing about the store."""


def connect(settings: Settings, **options: Any) -> redis.Redis:
    """A client for quick calls. If the reply to a call is lost, the call is repeated once.

    So every call must be safe to repeat.
    """
    retry = Retry(NoBackoff(), 1)
    options = {"retry": retry, **_options(settings), **options}
    if _by_sentinel(settings):
        return sentinel.connect(settings.redis_url, **options)
    return redis.Redis.from_url(settings.redis_url, **options)


def connect_async(settings: Settings, **options: Any) -> redis.asyncio.Redis:
    """A client for an event loop. It repeats nothing: its callers are loops that try again."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    options = {"retry": retry, **_options(settings), **options}
    if _by_sentinel(settings):
        return sentinel.connect_async(settings.redis_url, **options)
    return redis.asyncio.Redis.from_url(settings.redis_url, **options)


def explained(error: StoreUnavailable, settings: Settings) -> str:
    """Says which store it was, and what it answered. For commands: callers of the API may not know.

    User, password and options are left out.
    """
    if isinstance(error, StoreRefused):
        return f"{str(error).removesuffix('.')}: {error.__cause__ or 'it gave no reason'}"
    if isinstance(error.__cause__, redis.ResponseError):
        return str(error)  # it answered, so it is the store that was meant
    parts = urlsplit(settings.redis_url)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{error} REDIS_URL names {address}."


def _by_sentinel(settings: Settings) -> bool:
    return urlsplit(settings.redis_url).scheme == sentinel.SCHEME


def _options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": CALL_TIMEOUT_SECONDS,
        "socket_connect_timeout": CALL_TIMEOUT_SECONDS,
    }
    if urlsplit(settings.redis_url).scheme == "rediss" and not settings.redis_tls_verify:
        options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return options


class _Translated:
    # It has no state, so one instance serves all calls. `contextlib.contextmanager` would be
    # shorter, but takes three times as long.

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and (meant := _meaning(error)):
            raise meant from error


_translated = _Translated()


def translated() -> AbstractContextManager[None]:
    """Turns errors of redis-py into `StoreUnavailable`, `StoreFull` or `StoreRefused`.

    `StoreRefused` may concern this one call only. With the others, any call would fail.
    """
    return _translated


def _meaning(error: BaseException) -> StoreUnavailable | StoreFull | StoreRefused | None:
    if isinstance(
        error, (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)
    ):
        return StoreUnavailable()
    if isinstance(error, NotSent):
        return StoreBusy(str(error))
    if not isinstance(error, redis.ResponseError):
        return None
    text = f"{type(error).__name__}: {error}"
    if NEWER in text:
        return StoreUnavailable(REFUSAL)
    if any(word in text for word in _FULL):
        return StoreFull()
    if any(word in text for word in _AWAY) or isinstance(error, _NOT_NOW):
        return StoreUnavailable()
    if any(word in text for word in _FORBIDDEN):
        return StoreUnavailable(
            "The store denies a command that this service needs. Check the ACL of its user."
        )
    return StoreRefused()


def nobody_can_be_served(error: BaseException | None) -> bool:
    """Returns True if the store, or its machine, said that it takes no writes from anybody now.

    Nothing listens at its address, it closed the connection, or it is loading, read-only or full.
    Then no execution can be given to another worker, and flows may go on. Silence (a timeout, no
    route) proves nothing: the store may be well, and only this worker cut off.
    """
    while error is not None:
        if isinstance(error, _SERVES_NOBODY):
            return True
        if isinstance(error, redis.ConnectionError) and "Connection closed by server" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def refuses_everybody(error: BaseException) -> bool:
    """Returns True if the store answered that it takes no such call from anybody now: it is
    read-only or full, has too few replicas, or its ACL forbids the call. Then no single call is to
    blame. (A `StoreRefused` is about one call.)
    """
    return isinstance(error.__cause__, redis.ResponseError)


class Breaker(AbstractContextManager[None]):
    """Lets calls fail at once for a second after one that did not reach the store.

    So threads do not pile up behind a store that does not answer. An error reply does not count: a
    store that replies can be called again.
    """

    def __init__(self) -> None:
        self._broken_until = 0.0

    def calling(self) -> AbstractContextManager[None]:
        """A context for a call. It raises what `translated` raises."""
        return self

    def __enter__(self) -> None:
        if time.monotonic() < self._broken_until:
            raise StoreUnavailable

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        # No lock: at worst another thread makes one more call that fails.
        if isinstance(error, (OSError, redis.ConnectionError, redis.TimeoutError)):
            self._broken_until = time.monotonic() + BREAK_SECONDS
        if meant := _meaning(error):
            raise meant from error
