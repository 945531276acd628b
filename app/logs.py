"""Logs: one JSON line an event on stdout, or a readable line where stdout is a terminal.

Event names are constant, facts go into fields. Bodies, inputs, prompts and outputs are never logged, and
what looks like a secret in any line is masked. Of an exception, the type and the places in the code are
logged, and those of its causes; not its message, since that may quote what a flow was working on, but for
what the store said. (The message goes to whoever asks for the execution, in `error.message`.)

Lines of libraries (gunicorn, RQ, warnings, ...) come in the same form, as the event `library_message`.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import structlog

from app.masking import MASK, mask

_WARNINGS_ONLY = ("openai", "httpx2", "httpcore2", "aiohttp", "asyncio", "urllib3")
"""On a finer level these have several lines for each model call, and what they quote is up to their next version."""

_REFUSED_BY_GUNICORN = "Invalid request from ip="

_HALTED_BY_GUNICORN = "HaltServer"
"""How its master ends where a web process can not start; that one has said why."""

log = structlog.get_logger(__name__)


def configure(level: str, secrets: Sequence[str] = ()) -> None:
    """Routes this process's records through one handler: ours, and all libraries'. May be called again.

    `secrets` are masked wherever they stand, beside what looks like a secret.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        describe_exception,
        masking(secrets),
    ]
    readable = sys.stdout.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        foreign_pre_chain=[_library_message, *shared],
    )
    _route(formatter, level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    sys.excepthook = _crashed
    threading.excepthook = lambda each: _crashed(each.exc_type, each.exc_value, each.exc_traceback)


def _route(formatter: logging.Formatter, level: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a lone surrogate must not cost a line
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _WARNINGS_ONLY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # or a line that can not be written is printed raw


def masking(secrets: Sequence[str]) -> Callable[[Any, str, dict[str, Any]], dict[str, Any]]:
    """Masks these secrets, and keys, bearer tokens and passwords, wherever they stand in a line."""
    literally = re.compile("|".join(map(re.escape, secrets)) or "(?!)")

    def masked(value: Any) -> Any:
        if isinstance(value, str):
            return mask(literally.sub(MASK, value))
        if isinstance(value, dict):
            return {name: masked(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [masked(each) for each in value]
        return value

    return lambda _, __, event: {name: masked(value) for name, value in event.items()}


def _library_message(_: Any, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """The first line alone: what follows it in a message is an exception's text, or a line of code."""
    message, _, _ = str(event["event"]).partition("\n")
    if message.startswith(_REFUSED_BY_GUNICORN):
        message, _, _ = message.partition(": ")  # what follows quotes the request
    return {**event, "event": "library_message", "message": message}


def describe_exception(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """`exc_info` as `errors`: the exception, then its causes."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if info is True:
        error = sys.exc_info()[1]
    chain: list[dict[str, Any]] = []
    while error is not None and len(chain) < 5:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
        chain.append({"type": type(error).__name__, **_said_by_the_store(error), "at": places[-20:]})
        error = error.__cause__ or error.__context__
    return {**event, "errors": chain} if chain else event


def _said_by_the_store(error: BaseException) -> dict[str, str]:
    """Its refusals are told in its own words, up to where it quotes what it was sent."""
    if not type(error).__module__.startswith("redis."):
        return {}
    said, _, _ = str(error).partition(", with args")
    return {"said": mask(said)}


def _crashed(_: Any, error: BaseException | None, *__: Any) -> None:
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == _HALTED_BY_GUNICORN:
        return
    log.critical("crashed", exc_info=error)
