"""Logs: one JSON line an event on stdout, or a readable line where stdout is a terminal.

Event names are constant, facts go into fields. Bodies, inputs, prompts and outputs are never logged, and
what looks like a secret in any line is masked. Of an exception, the type and the places in the code are
logged, and those of its causes; not its message, since that may quote what a flow was working on, but for
what the store said. (The message goes to whoever asks for the execution, in `error.message`.)

Lines of libraries (gunicorn, RQ, warnings, ...) come in the same form, as the event `library_message`.

A line has at most 4 KiB, and is never waited for: what stdout does not take is dropped and counted (see `sink.py`).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from contextvars import ContextVar
from typing import Any

import structlog

from app.log_fields import cleaned
from app.masking import Mask, mask
from app.sink import MAX_LINE_BYTES, Sink

_WARNINGS_ONLY = ("openai", "httpx2", "httpcore2", "aiohttp", "asyncio", "urllib3")
"""On a finer level these have several lines for each model call, and what they quote is up to their next version."""

_REFUSED_BY_GUNICORN = "Invalid request from ip="

_HALTED_BY_GUNICORN = "HaltServer"
"""How its master ends where a web process can not start; that one has said why."""

_ROOMS = (3600, 2400, 1200, 600, 300, 0)
"""Characters for a line's fields, until it is short enough: some take six bytes each."""

log = structlog.get_logger(__name__)


def configure(level: str, secrets: Sequence[str] = (), descriptor: int = 1) -> None:
    """Routes this process's records through one handler: ours, and all libraries'. May be called again.

    `secrets` are masked wherever they stand, beside what looks like a secret. Lines are written to
    `descriptor`, standard output or a copy of it.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _of_the_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        describe_exception,
        masking(secrets),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stdout.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, fitting(renderer)],
        foreign_pre_chain=[_library_message, *shared],
    )
    _route(formatter, level, descriptor)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    sys.excepthook = crashed
    threading.excepthook = lambda died: crashed(died.exc_type, died.exc_value, died.exc_traceback)


_request: ContextVar[dict[str, str]] = ContextVar("request_in_logs")


def begin_request(**fields: str) -> None:
    """Has each line of the request that begins now tell these fields, and no other's. (Of structlog's own context
    variables there is one for each field, and to clear them takes a walk through all that there are.)"""
    _request.set(fields)


def name_in_request(**fields: str) -> None:
    """Adds to them."""
    _request.set({**_request.get({}), **fields})


def _of_the_request(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**_request.get({}), **event}


def flush() -> None:
    """Writes what waits, and how much was dropped, where stdout takes it now. For whoever comes by regularly."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _route(formatter: logging.Formatter, level: str, descriptor: int) -> None:
    handler = _SinkHandler(descriptor)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _WARNINGS_ONLY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # or a line that can not be written is printed raw


class _SinkHandler(logging.Handler):
    """Writes lines without waiting. `logging` calls it under a lock, and looks after that when a process forks."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._sink = Sink(descriptor, self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.write(self._line(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Called by `flush` above, and at the end of a process that ends in order."""
        with self.lock or contextlib.nullcontext():
            self._sink.flush()

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def _dropped(self, count: int) -> bytes:
        event: Any = {"event": "log_lines_dropped", "count": count, "level": "warning", "logger": __name__}
        event = structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "warning", event)
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, event, None, None)
        record.__dict__ |= {"_logger": None, "_name": "warning"}  # as structlog marks its own
        return self._line(record)


def fitting(renderer: Any) -> Callable[[Any, str, MutableMapping[str, Any]], str]:
    """Renders a line in at most `MAX_LINE_BYTES`; what its fields hold is cut until it is."""

    def fit(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        line: str = renderer(logger, name, dict(event))
        for room in _ROOMS:
            if len(line.encode(errors="backslashreplace")) < MAX_LINE_BYTES:
                return line
            line = renderer(logger, name, cleaned(event, mask, room))
        return line

    return fit


def masking(secrets: Sequence[str]) -> Callable[[Any, str, MutableMapping[str, Any]], dict[str, Any]]:
    """Makes fields plain and bounded, and masks in them these secrets and what looks like one by form or name."""
    hide = Mask(secrets)

    def processor(_: Any, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
        ours = {name: event[name] for name in ("_record", "_from_structlog") if name in event}
        return cleaned({name: value for name, value in event.items() if name not in ours}, hide, MAX_LINE_BYTES) | ours

    return processor


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
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        chain.append({"type": type(error).__name__, **_said_by_the_store(error), "at": places[-20:]})
        error = error.__cause__ or error.__context__
    return {**event, "errors": chain} if chain else event


def _said_by_the_store(error: BaseException) -> dict[str, str]:
    """Its refusals are told in its own words, up to where it quotes what it was sent."""
    if not type(error).__module__.startswith("redis."):
        return {}
    said, _, _ = str(error).partition(", with args")
    return {"said": mask(said)}


def crashed(_: Any, error: BaseException | None, *__: Any) -> None:
    """Logs what nobody caught. It has the form of `sys.excepthook`."""
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == _HALTED_BY_GUNICORN:
        return
    log.critical("crashed", exc_info=error)
