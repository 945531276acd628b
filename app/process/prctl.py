"""Sets what only the kernel's prctl(2) can set, for the worker, its children and `make run`.

Python has no functions for them. They are Linux's, as is everything that the worker needs.
"""

from __future__ import annotations

import ctypes
import os
import signal

# PyDLL keeps the interpreter locked: the call takes less time than handing the lock over. Opened
# once, because each run names its thread twice.
_python_api = ctypes.PyDLL(None)

_SET_PDEATHSIG = 1
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36

_NAME_BYTES = 15
"""The kernel cuts off longer names."""


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Makes this process receive the signal when the thread that started it ends.

    Fits as a `preexec_fn`. Only SIGKILL ends a stopped process (SIGSTOP).
    """
    _python_api.prctl(_SET_PDEATHSIG, number, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent dies, however that happens."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the call: the kernel does not notice that


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent dies, even of those that
    have detached themselves.
    """
    _python_api.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_name(name: str) -> None:
    """Names the calling thread, or the process if it is the main thread, as `ps` and `top -H` show
    it. Threads that it starts inherit the name.
    """
    _python_api.prctl(_SET_NAME, name.encode()[:_NAME_BYTES], 0, 0, 0)
