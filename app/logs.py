"""Logs: one JSON line an event on stdout, or a readable line where stdout is a terminal.

Event names are constant, facts go into fields. Bodies, inputs, prompts and outputs are never logged, and
what looks like a secret in any line is masked.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import structlog

_MASKED = r"sk-[A-Za-z0-9_\-]{8,}|exkey_\w+|(?<=[Bb]earer )[^\s'\"]+|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"


def configure(level: str, secrets: Sequence[str] = ()) -> None:
    """Routes this process's records through one handler: ours, gunicorn's, RQ's. May be called again.

    `secrets` are masked wherever they stand, beside what looks like a secret.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        masking(secrets),
    ]
    readable = sys.stdout.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def masking(secrets: Sequence[str]) -> Callable[[Any, str, dict[str, Any]], dict[str, Any]]:
    """Masks keys, bearer tokens and passwords in addresses, wherever they stand in a line."""
    pattern = re.compile("|".join([*map(re.escape, secrets), _MASKED]))

    def mask(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
        for name, value in event.items():
            if isinstance(value, str):
                event[name] = pattern.sub("[masked]", value)
        return event

    return mask
