"""Takes and resets the state of Python's logging: levels, handlers and filters of all loggers.

Two entries of the table in `state` use it: `take` in a process that runs one flow at a time,
`take_own` in one of threads.
"""

from __future__ import annotations

import logging
from typing import Any

_NEW = (logging.NOTSET, True, False, (), ())
"""A new logger: level, propagate, disabled, handlers, filters."""

_Picture = dict[str, Any]


def take() -> _Picture:
    """Returns the state of all loggers. New ones are left out: libraries make hundreds."""
    picture = take_own()
    for name, logger in _loggers():
        if (state := _of_logger(logger)) != _NEW:
            picture[f".{name}"] = state
    return picture


def take_own() -> _Picture:
    """Returns only what the service itself depends on: the root logger, its handlers, the module's
    settings, and which loggers are disabled.
    """
    return {
        "": _of_logger(logging.root),
        "*": (
            logging.root.manager.disable,
            logging.raiseExceptions,
            logging.getLoggerClass(),
            logging.getLogRecordFactory(),
            logging.lastResort,
        ),
        "handlers": [_of_handler(handler) for handler in logging.root.handlers],
        "disabled": [name for name, logger in _loggers() if logger.disabled],
    }


def put_back(picture: _Picture) -> None:
    """Resets all loggers. Those that are not in the picture become as new ones."""
    for name, logger in _loggers():
        if f".{name}" not in picture:
            _set_logger(logger, _NEW)
    apply(picture)


def difference(before: _Picture, after: _Picture) -> _Picture:
    return {name: state for name, state in after.items() if before.get(name) != state}


def apply(picture: _Picture) -> None:
    """Sets what the picture has, and changes nothing else."""
    for name, state in picture.items():
        if name == "*":
            _set_module(state)
        elif name == "disabled":  # `dictConfig` disables every logger that it does not name
            for logger_name, logger in _loggers():
                logger.disabled = logger_name in state
        elif name == "handlers":
            for handler_state in state:
                _set_handler(*handler_state)
        else:
            _set_logger(logging.getLogger(name[1:] or None), state)


def _loggers() -> list[tuple[str, logging.Logger]]:
    known = list(logging.root.manager.loggerDict.items())
    return [(name, logger) for name, logger in known if isinstance(logger, logging.Logger)]


def _of_logger(logger: logging.Logger) -> tuple[Any, ...]:
    state = (logger.level, logger.propagate, logger.disabled)
    return (*state, tuple(logger.handlers), tuple(logger.filters))


def _set_logger(logger: logging.Logger, state: tuple[Any, ...]) -> None:
    level, logger.propagate, logger.disabled, handlers, filters = state
    if logger.level != level:
        logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.filters[:] = filters


def _of_handler(handler: logging.Handler) -> tuple[Any, ...]:
    stream = getattr(handler, "stream", None)
    return handler, handler.level, handler.formatter, tuple(handler.filters), stream


def _set_handler(
    handler: logging.Handler, level: int, formatter: Any, filters: Any, stream: Any
) -> None:
    handler.setLevel(level)
    handler.setFormatter(formatter)
    handler.filters[:] = filters
    if isinstance(handler, logging.StreamHandler):
        handler.stream = stream


def _set_module(state: tuple[Any, ...]) -> None:
    disabled, raises, logger_class, record_factory, last_resort = state
    logging.disable(disabled)
    logging.raiseExceptions = raises
    logging.setLoggerClass(logger_class)
    logging.setLogRecordFactory(record_factory)
    logging.lastResort = last_resort
