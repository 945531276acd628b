"""Configures logging for a process: one JSON line for each event on stdout.

Every process calls `configure()` at its start. If stdout is a terminal, a line is readable text
instead. The rules for a line:

- Event names are constants, facts go into fields. Request bodies, inputs, prompts and outputs are
  never logged, and what looks like a secret is masked in every line.
- An exception is logged with its type, the places in the code, and its causes. Its message is left
  out, since it may quote what a flow was working on; only the store's own messages are kept.
  (Whoever asks for the execution gets the message in `error.message`.)
- Lines of libraries (gunicorn, RQ, warnings, ...) have the same form; their event is
  `library_message`.
- A line has at most 4 KiB, and no process waits for it: what stdout does not take is dropped and
  counted (see `app.telemetry.sink`).
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

from app.telemetry.log_fields import cleaned
from app.telemetry.masking import Mask, mask
from app.telemetry.sink import MAX_LINE_BYTES, Sink

_WARNINGS_ONLY = ("openai", "httpx2", "httpcore2", "aiohttp", "asyncio", "urllib3")
"""Libraries that write several lines for each model call on finer levels, and may quote it."""

_REFUSED_BY_GUNICORN = "Invalid request from ip="

_HALTED_BY_GUNICORN = "HaltServer"
"""gunicorn's master raises it if a web process cannot start; that process has logged the reason."""

_ROOMS = (3600, 2400, 1200, 600, 300, 0)
"""Characters for a line's fields, tried in turn until it fits: some take six bytes in JSON."""

_MAX_CAUSES = 5
_MAX_PLACES = 20

log = structlog.get_logger(__name__)


def configure(level: str, secrets: Sequence[str] = (), descriptor: int = 1) -> None:
    """Sends all records of this process, the libraries' too, to one handler. May be called again.

    `secrets` are masked wherever they appear, beside what looks like a secret. Lines are written to
    `descriptor`, which is standard output or a copy of it.
    """
    global _masked
    _masked = masking(secrets)
    # The order matters: masking comes last, so that it sees what the others have added.
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _of_the_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        describe_exception,
        _masked,
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
    """Has each line of the request that begins now tell these fields, and no other's. (Of
    structlog's own context variables there is one for each field, and to clear them takes a walk
    through all that there are.)
    """
    _request.set(fields)


def name_in_request(**fields: str) -> None:
    """Adds to them."""
    _request.set({**_request.get({}), **fields})


def _of_the_request(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**_request.get({}), **event}


def present_run() -> str:
    """The execution whose code runs in this thread or task; empty if that is not known."""
    return str(structlog.contextvars.get_contextvars().get("execution_id", ""))


def write_print(stream: str, text: str) -> None:
    """Writes a line that a flow has printed, with the names of its run.

    It goes past `logging`: a flow may have disabled its loggers, or given them a handler that
    prints, too.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _SinkHandler):
            fields = {"stream": stream, "message": text, **structlog.contextvars.get_contextvars()}
            handler.handle(_record("flow_output", "info", **fields))
            return


def flush() -> None:
    """Writes the lines that wait, as far as stdout takes them now. Processes call it regularly."""
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
    # Otherwise `logging` prints a record that could not be written on stderr, without masking it.
    logging.raiseExceptions = False


class _SinkHandler(logging.Handler):
    """Writes lines without waiting. `logging` calls it under a lock, which survives a fork."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._sink = Sink(descriptor, self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.write(self._line(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Writes the lines that wait. `logging` also calls it when a process exits normally."""
        with self.lock or contextlib.nullcontext():
            self._sink.flush()

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def _dropped(self, count: int) -> bytes:
        # Built by hand: a call of a logger would come back to this handler in the middle of a
        # write.
        return self._line(_record("log_lines_dropped", "warning", count=count))


def _record(event: str, level: str, **fields: Any) -> logging.LogRecord:
    """A record that no logger has made, masked."""
    line: Any = {**fields, "event": event, "level": level, "logger": __name__}
    line = structlog.processors.TimeStamper(fmt="iso", utc=True)(None, level, line)
    record = logging.LogRecord(
        __name__, logging.INFO, "", 0, _masked(None, level, line), None, None
    )
    # By these attributes, structlog's formatter takes the record for one of its own.
    record.__dict__ |= {"_logger": None, "_name": level}
    return record


def fitting(renderer: Any) -> Callable[[Any, str, MutableMapping[str, Any]], str]:
    """Returns a renderer whose lines have less than `MAX_LINE_BYTES`; it cuts their fields."""

    def fit(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        line: str = renderer(logger, name, dict(event))
        for room in _ROOMS:
            if len(line.encode(errors="backslashreplace")) < MAX_LINE_BYTES:
                return line
            line = renderer(logger, name, cleaned(event, mask, room))
        return line

    return fit


def masking(
    secrets: Sequence[str],
) -> Callable[[Any, str, MutableMapping[str, Any]], dict[str, Any]]:
    """Returns a processor that makes fields plain and bounded, and masks secrets in them."""
    hide = Mask(secrets)

    def processor(_: Any, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
        # The formatter's own two fields are objects that it needs as they are, and removes itself.
        kept = {name: event[name] for name in ("_record", "_from_structlog") if name in event}
        fields = {name: value for name, value in event.items() if name not in kept}
        return cleaned(fields, hide, MAX_LINE_BYTES) | kept

    return processor


_masked = masking(())
"""The processor of this process, which knows its secrets."""


def _library_message(_: Any, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    # The first line only: the others are an exception's text or a line of code.
    message, _, _ = str(event["event"]).partition("\n")
    if message.startswith(_REFUSED_BY_GUNICORN):
        message, _, _ = message.partition(": ")  # what follows quotes the request
    return {**event, "event": "library_message", "message": message}


def describe_exception(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Replaces `exc_info` by `errors`: the exception and its causes, each without its message."""
    info = event.pop("exc_info", None)
    error = (
        info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    )
    if info is True:
        error = sys.exc_info()[1]
    chain: list[dict[str, Any]] = []
    while error is not None and len(chain) < _MAX_CAUSES:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        chain.append(
            {"type": type(error).__name__, **_store_message(error), "at": places[-_MAX_PLACES:]}
        )
        error = error.__cause__ or error.__context__
    return {**event, "errors": chain} if chain else event


def _store_message(error: BaseException) -> dict[str, str]:
    """Returns the message of a store, up to the place where it quotes the command."""
    if not type(error).__module__.startswith("redis."):
        return {}
    message, _, _ = str(error).partition(", with args")
    return {"store_message": mask(message)}


def crashed(_: Any, error: BaseException | None, *__: Any) -> None:
    """Logs an exception that nobody caught. It has the signature of `sys.excepthook`."""
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == _HALTED_BY_GUNICORN:
        return
    log.critical("crashed", exc_info=error)
