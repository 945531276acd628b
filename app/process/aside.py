"""Keeps long work from holding a web process's event loop: it runs in a thread, or gives way.

`aside` is called for large bodies: parsing, checking, serializing. There is one such thread: Python
runs one thread at a time, so more of them would only take time from the loop.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

SMALL_BYTES = 64 * 1024
"""Smaller work is done at once: handing it to the thread would take as long."""

LONG = SMALL_BYTES + 1
"""The size of work that takes long for another reason than its size."""

_MOMENT_SECONDS = 1e-6

Result = TypeVar("Result")


def aside(size: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """Returns `function(*arguments)`, and raises what it raises. `size` is the bytes it works on.

    The function must not use Flask's request: it may run in another thread.
    """
    if size <= SMALL_BYTES or not _on_a_loop():
        return function(*arguments)
    result, error = _thread().apply(_outcome, (function, arguments))
    if error is not None:
        raise error
    return cast(Result, result)


def give_way() -> None:
    """Lets other requests run, also those that wait for the network or for a moment.

    During a `sleep(0)`, gevent runs only what is ready already. It looks at the network after up to
    a hundred of them.
    """
    time.sleep(_MOMENT_SECONDS)


def _outcome(
    function: Callable[..., Result], arguments: tuple[Any, ...]
) -> tuple[Result | None, Exception | None]:
    """Returns the result or the error. gevent would print an error that a thread raises, although
    the caller gets it, too.
    """
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def _on_a_loop() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def short_lock() -> Any:
    """Returns a lock for a few instructions that never wait: the system's own, also under gevent.

    gevent's lock costs fifty times as much, because it lets other requests run meanwhile.
    """
    if _on_a_loop():
        return sys.modules["gevent.monkey"].get_original("threading", "Lock")()
    return threading.Lock()


@functools.cache
def _thread() -> Any:
    from gevent.threadpool import ThreadPool

    return ThreadPool(1)
