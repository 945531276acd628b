"""Tells an outage of the store from being cut off from it."""

from __future__ import annotations

import redis

from app.errors import StoreFull

_SERVES_NOBODY = (
    ConnectionRefusedError,
    ConnectionResetError,
    FileNotFoundError,
    redis.ReadOnlyError,
    redis.BusyLoadingError,
    StoreFull,
)


def nobody_can_be_served(error: BaseException | None) -> bool:
    """True where the store itself said, or its machine did, that it takes no writes from anybody for now.

    Nothing listens at its address, it closed the connection, it is loading, read-only or full: then no
    execution can be given to somebody else meanwhile, and flows may go on. Silence (a timeout, no route)
    says nothing: the store may be well, and only this worker cut off.
    """
    while error is not None:
        if isinstance(error, _SERVES_NOBODY):
            return True
        if isinstance(error, redis.ConnectionError) and "Connection closed by server" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
