"""Work that takes long is done aside of a web process's event loop, so that other requests go on.

In one thread: beside it, the loop gets the interpreter every time that it asks for it.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

SMALL_BYTES = 64 * 1024
"""What is no larger is done at once: it takes no longer than handing it over."""

Result = TypeVar("Result")


def aside(size: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls it with the arguments, and raises what it raises.

    It may know nothing of the request: it may run in another thread.
    """
    if size <= SMALL_BYTES or not _on_a_loop():
        return function(*arguments)
    result, error = _thread().apply(_outcome, (function, arguments))
    if error is not None:
        raise error
    return cast(Result, result)


def _outcome(
    function: Callable[..., Result], arguments: tuple[Any, ...]
) -> tuple[Result | None, Exception | None]:
    """Raises nothing: gevent prints whatever a function of its threads raises, though the caller
    gets it too.
    """
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def _on_a_loop() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def short_lock() -> Any:
    """A lock for a few instructions in which nothing waits: the system's own, also on an event
    loop.

    gevent's costs fifty times as much, since it lets others go on meanwhile, which is not needed
    for those.
    """
    if _on_a_loop():
        return sys.modules["gevent.monkey"].get_original("threading", "Lock")()
    return threading.Lock()


@functools.cache
def _thread() -> Any:
    from gevent.threadpool import ThreadPool

    return ThreadPool(1)
