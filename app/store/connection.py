"""How the store is reached, and what its errors mean here. One client a process; none crosses a
fork.
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

from app.domain.errors import StoreFull, StoreRefused, StoreUnavailable
from app.settings import Settings
from app.store import sentinel
from app.store.scripts import NOT_FOUND

CALL_TIMEOUT_SECONDS = 0.8
"""For each try of a call; with one repeat, a request is answered within 2 s whatever the store
does.
"""

BREAK_SECONDS = 1.0

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
"""Of a command, of one in a script, and the same in older stores."""


class NotSent(redis.RedisError):
    """A call waited too long behind others of its process. This says nothing about the store."""


def connect(settings: Settings, **options: Any) -> redis.Redis:
    """A client for calls that are answered at once. A call whose answer is lost is repeated once."""
    retry = Retry(NoBackoff(), 1)
    options = {"retry": retry, **_options(settings), **options}
    if _by_sentinel(settings):
        return sentinel.connect(settings.redis_url, **options)
    return redis.Redis.from_url(settings.redis_url, **options)


def connect_async(settings: Settings, **options: Any) -> redis.asyncio.Redis:
    """The same for an event loop, without a repeat: its callers are loops, which repeat by
    themselves.
    """
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    options = {"retry": retry, **_options(settings), **options}
    if _by_sentinel(settings):
        return sentinel.connect_async(settings.redis_url, **options)
    return redis.asyncio.Redis.from_url(settings.redis_url, **options)


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
    """Of no state, so that one serves all calls. (A class, as a generator takes three times as
    long.)
    """

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and (meant := _meaning(error)):
            raise meant from error


_translated = _Translated()


def translated() -> AbstractContextManager[None]:
    """Turns whatever the store says or does not say into `StoreUnavailable`, `StoreFull` and
    `StoreRefused`.

    Only the last may be about the one call alone; with the others no call is better off.
    """
    return _translated


def _meaning(error: BaseException) -> StoreUnavailable | StoreFull | StoreRefused | None:
    if isinstance(
        error, (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)
    ):
        return StoreUnavailable()
    if isinstance(error, NotSent):
        return StoreUnavailable(str(error))
    if not isinstance(error, redis.ResponseError):
        return None
    text = f"{type(error).__name__}: {error}"
    if any(word in text for word in _FULL):
        return StoreFull()
    if any(word in text for word in _AWAY) or isinstance(error, _NOT_NOW):
        return StoreUnavailable()
    if any(word in text for word in _FORBIDDEN):
        return StoreUnavailable(
            "The store forbids what this service must do: look at its user's ACL."
        )
    return StoreRefused()


class Breaker(AbstractContextManager[None]):
    """After a call that found no store, calls fail at once for a second, so that no pile of threads
    waits for one that does not answer. A store that answers, if only with a refusal, is asked
    again.
    """

    def __init__(self) -> None:
        self._broken_until = 0.0

    def calling(self) -> AbstractContextManager[None]:
        """Around a call: raises what `translated` raises."""
        return self

    def __enter__(self) -> None:
        if time.monotonic() < self._broken_until:
            raise StoreUnavailable

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        if isinstance(error, (OSError, redis.ConnectionError, redis.TimeoutError)):
            self._broken_until = time.monotonic() + BREAK_SECONDS
        if meant := _meaning(error):
            raise meant from error
