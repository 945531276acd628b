"""Lists what a flow can change in its process, and how to reset it: the tables at the end.

`cleanup` takes a picture of each entry before the first run, compares it after each run, and resets
what differs. Two pictures are equal exactly if nothing has changed. An entry that cannot be reset
makes the process unfit for another run. Each entry has a `_take_...` and a `_put_..._back`.
"""

from __future__ import annotations

import asyncio
import codecs
import decimal
import faulthandler
import gc
import locale
import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import tracemalloc
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from app.worker.cleanup import logging_state

_MISSING = object()


def _difference(_: Any, after: Any) -> Any:
    return after


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a flow can change. `name` appears in log lines and reasons.

    `take` returns a picture, `put_back` resets to it. `difference` extracts what an import changed
    from the pictures before and after it; `apply` repeats that change for the next run of the same
    code. Without them, the whole later picture is put back.
    """

    name: str
    take: Callable[[], Any]
    put_back: Callable[[Any], object]
    difference: Callable[[Any, Any], Any] = _difference
    apply: Callable[[Any], object] | None = None
    is_slow: bool = False
    """A process of threads does not check it after every run: see `CHECK_SECONDS` in `cleanup`."""

    def again(self, change: Any) -> None:
        """Repeats a change that `difference` returned."""
        (self.apply or self.put_back)(change)


# The working folder and the environment.


def _put_folder_back(folder: str) -> None:
    os.chdir(folder)


def _put_environment_back(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    _apply_environment(environment)


def _environment_difference(before: dict[str, str], after: dict[str, str]) -> dict[str, str | None]:
    names = before.keys() | after.keys()
    return {name: after.get(name) for name in names if before.get(name) != after.get(name)}


def _apply_environment(changed: Any) -> None:
    for name, value in changed.items():
        if value is None:
            os.environ.pop(name, None)
        elif os.environ.get(name) != value:
            os.environ[name] = value


def _take_time_zone() -> Any:
    return time.tzname, time.timezone, time.altzone


def _put_time_zone_back(_: Any) -> None:
    time.tzset()  # reads TZ, which has been put back with the environment


def _take_umask() -> int:
    umask = os.umask(0o077)  # there is no call that reads it without setting it
    os.umask(umask)
    return umask


# Signals. (`cleanup` disarms timers before anything else.)

_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def _take_signals() -> Any:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _put_signals_back(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


def _take_blocked() -> Any:
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def _put_blocked_back(blocked: Any) -> None:
    while signal.sigpending() & signal.pthread_sigmask(signal.SIG_BLOCK, []):
        signal.sigtimedwait(signal.sigpending(), 0)  # they were meant for the run that ended
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


# Limits and priorities of the process.

_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def _take_limits() -> Any:
    return {number: resource.getrlimit(number) for number in _LIMITS}


def _put_limits_back(limits: dict[int, tuple[int, int]]) -> None:
    for number, limit in limits.items():
        if resource.getrlimit(number) != limit:
            resource.setrlimit(number, limit)


def _put_priority_back(priority: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, priority)


def _take_scheduler() -> Any:
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def _put_scheduler_back(scheduler: tuple[int, int]) -> None:
    os.sched_setscheduler(0, scheduler[0], os.sched_param(scheduler[1]))


_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_CONFINED = re.compile(r"^(?:Cap\w+|NoNewPrivs|Seccomp):.*$", re.MULTILINE)


def _take_identity() -> Any:
    root, status = os.stat("/"), Path("/proc/self/status").read_text()
    namespaces = [os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES]
    users = os.getresuid(), os.getresgid(), os.getgroups()
    return users, (root.st_dev, root.st_ino), namespaces, _CONFINED.findall(status)


def _cannot_be_put_back(_: Any) -> None:
    """Does nothing. The picture still differs after it, which makes the process unfit."""


# The interpreter.

_ATTRIBUTES: tuple[tuple[Any, str], ...] = (
    (sys, "excepthook"),
    (sys, "unraisablehook"),
    (sys, "displayhook"),
    (sys, "breakpointhook"),
    (sys, "dont_write_bytecode"),
    (sys, "pycache_prefix"),
    (sys, "tracebacklimit"),
    (threading, "excepthook"),
    (os, "environ"),
    (tempfile, "tempdir"),
    (warnings, "showwarning"),
    (warnings, "formatwarning"),
    (warnings, "defaultaction"),
    (urllib.request, "_opener"),  # set by `install_opener`: with its proxies and passwords
)


def _take_attributes() -> Any:
    return [getattr(owner, name, _MISSING) for owner, name in _ATTRIBUTES]


def _put_attributes_back(values: list[Any]) -> None:
    for (owner, name), value in zip(_ATTRIBUTES, values, strict=True):
        if value is not _MISSING:
            setattr(owner, name, value)
        elif hasattr(owner, name):
            delattr(owner, name)


_LISTS: tuple[tuple[Any, str], ...] = (
    (sys, "argv"),
    (sys, "path"),
    (sys, "meta_path"),
    (sys, "path_hooks"),
    (gc, "callbacks"),
    (warnings, "filters"),
)


def _take_lists() -> Any:
    return [(getattr(owner, name), list(getattr(owner, name))) for owner, name in _LISTS]


def _put_lists_back(lists: list[tuple[list[Any], list[Any]]]) -> None:
    for (owner, name), (value, items) in zip(_LISTS, lists, strict=True):
        value[:] = items
        setattr(owner, name, value)
    # Otherwise `warnings` would go on using what it has cached of the filters.
    getattr(warnings, "_filters_mutated", lambda: None)()


def _lists_difference(before: Any, after: Any) -> Any:
    """Returns what was added to each list, with its place. Removals are not repeated."""
    return [
        [(place, item) for place, item in enumerate(items) if item not in known]
        for (_, known), (_, items) in zip(before, after, strict=True)
    ]


def _apply_lists(added: list[list[tuple[int, Any]]]) -> None:
    for (owner, name), items in zip(_LISTS, added, strict=True):
        value = getattr(owner, name)
        for place, item in items:
            if item not in value:
                value.insert(place, item)
    getattr(warnings, "_filters_mutated", lambda: None)()


def _take_interpreter() -> Any:
    return (
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        sys.get_int_max_str_digits(),
        sys.gettrace(),
        sys.getprofile(),
        threading.gettrace(),
        threading.getprofile(),
        threading.stack_size(),
        sys.get_coroutine_origin_tracking_depth(),
        sys.get_asyncgen_hooks(),
        tracemalloc.is_tracing(),
    )


def _put_interpreter_back(values: Any) -> None:
    recursion, interval, digits, trace, profile, thread_trace, thread_profile, stack, *rest = values
    depth, generator_hooks, tracing = rest
    sys.setrecursionlimit(recursion)
    sys.setswitchinterval(interval)
    sys.set_int_max_str_digits(digits)
    sys.settrace(trace)
    sys.setprofile(profile)
    threading.settrace(thread_trace)
    threading.setprofile(thread_profile)
    threading.stack_size(stack)
    sys.set_coroutine_origin_tracking_depth(depth)
    sys.set_asyncgen_hooks(*generator_hooks)
    if not tracing:
        tracemalloc.stop()


_RECURSION_LIMIT = sys.getrecursionlimit()


def _take_pace() -> Any:
    """What can slow down all threads, or make them fail. A flow may raise the recursion limit,
    which harms nobody, but not lower it.
    """
    deep_enough = sys.getrecursionlimit() >= _RECURSION_LIMIT
    return (
        sys.getswitchinterval(),
        deep_enough,
        threading.gettrace(),
        threading.getprofile(),
        tracemalloc.is_tracing(),
    )


def _put_pace_back(values: Any) -> None:
    interval, _, trace, profile, tracing = values
    sys.setswitchinterval(interval)
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _RECURSION_LIMIT))
    threading.settrace(trace)
    threading.setprofile(profile)
    if not tracing:
        tracemalloc.stop()


def _take_garbage() -> Any:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug()


def _put_garbage_back(values: Any) -> None:
    enabled, threshold, debug = values
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*threshold)
    gc.set_debug(debug)


def _put_faulthandler_back(enabled: bool) -> None:
    (faulthandler.enable if enabled else faulthandler.disable)()


# Libraries.

_DECIMAL_DEFAULTS = (decimal.DefaultContext, decimal.BasicContext, decimal.ExtendedContext)


def _take_decimal() -> Any:
    return [repr(context) for context in (decimal.getcontext(), *_DECIMAL_DEFAULTS)]


def _put_decimal_back(texts: list[str]) -> None:
    for context, text in zip((decimal.getcontext(), *_DECIMAL_DEFAULTS), texts, strict=True):
        saved = eval(text, vars(decimal))  # noqa: S307  what `repr` of a context is made for
        for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp"):
            setattr(context, name, getattr(saved, name))
        context.flags.update(saved.flags)
        context.traps.update(saved.traps)


_TEXT_ERRORS = (
    "strict",
    "ignore",
    "replace",
    "xmlcharrefreplace",
    "backslashreplace",
    "namereplace",
)
_ERROR_HANDLERS = (*_TEXT_ERRORS, "surrogateescape", "surrogatepass")


def _take_error_handlers() -> Any:
    return [codecs.lookup_error(name) for name in _ERROR_HANDLERS]


def _put_error_handlers_back(handlers: list[Any]) -> None:
    for name, handler in zip(_ERROR_HANDLERS, handlers, strict=True):
        codecs.register_error(name, handler)


def _take_locale() -> str:
    return locale.setlocale(locale.LC_ALL)


def _put_locale_back(value: str) -> None:
    locale.setlocale(locale.LC_ALL, value)


def _put_start_method_back(method: str | None) -> None:
    multiprocessing.set_start_method(method, force=True)


def _put_structlog_back(config: dict[str, Any]) -> None:
    structlog.configure(**config)


_PROCESS = (
    Entry("limits of resources", _take_limits, _put_limits_back),
    Entry("the priority", lambda: os.getpriority(os.PRIO_PROCESS, 0), _put_priority_back),
    Entry("the scheduler", _take_scheduler, _put_scheduler_back),
    Entry(
        "the processors",
        lambda: os.sched_getaffinity(0),
        lambda processors: os.sched_setaffinity(0, processors),
    ),
    Entry(
        "user, rights, namespaces and root folder",
        _take_identity,
        _cannot_be_put_back,
        is_slow=True,
    ),
)

_COMMON = (
    Entry("the working folder", os.getcwd, _put_folder_back),
    Entry("the umask", _take_umask, os.umask),
    Entry("the locale", _take_locale, _put_locale_back),
    Entry("the time limit of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
    Entry("structlog's configuration", structlog.get_config, _put_structlog_back),
    Entry("the garbage collector", _take_garbage, _put_garbage_back),
    Entry("the error handlers of codecs", _take_error_handlers, _put_error_handlers_back),
    *_PROCESS,
)

BESIDE_OTHERS = (
    *_COMMON,
    Entry("logging", logging_state.take_own, logging_state.apply),
    Entry("the pace of threads", _take_pace, _put_pace_back),
    Entry("asyncio's policy", asyncio.get_event_loop_policy, asyncio.set_event_loop_policy),
)
"""Reset after each run in a process of threads: no flow has a reason to change these for all."""

ALONE = (
    *_COMMON,
    Entry(
        "logging",
        logging_state.take,
        logging_state.put_back,
        logging_state.difference,
        logging_state.apply,
    ),
    Entry(
        "the environment",
        lambda: dict(os.environ),
        _put_environment_back,
        _environment_difference,
        _apply_environment,
    ),
    Entry("the time zone", _take_time_zone, _put_time_zone_back),
    Entry("signal handlers", _take_signals, _put_signals_back),
    Entry("blocked signals", _take_blocked, _put_blocked_back),
    Entry("hooks", _take_attributes, _put_attributes_back),
    Entry(
        "sys.path and other lists", _take_lists, _put_lists_back, _lists_difference, _apply_lists
    ),
    Entry("settings of the interpreter", _take_interpreter, _put_interpreter_back),
    Entry("faulthandler", faulthandler.is_enabled, _put_faulthandler_back),
    Entry("the decimal context", _take_decimal, _put_decimal_back),
    Entry(
        "multiprocessing's start method",
        lambda: multiprocessing.get_start_method(allow_none=True),
        _put_start_method_back,
    ),
)
"""Reset after each run in a process that runs one flow at a time."""
