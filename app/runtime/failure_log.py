"""Writes the log lines about a run that failed: what was raised, and where in the agent's files.

A worker's child process calls `log_failure` once for each run that failed.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

import structlog

from app.catalog.model import PythonFlow
from app.domain.execution import Failure
from app.runtime.errors import RunFailed, failure_from, reason_and_others
from app.runtime.places import causes, frames, places
from app.telemetry.masking import mask

MAX_LOGGED_MESSAGE_CHARACTERS = 1000
"""A log line has 4 KiB, and the places must fit in, too. Answers have more of the message."""

MAX_PLACES = 10
"""Of one exception in a line: the innermost ones."""

MAX_PLACES_OF_A_CAUSE = 3
MAX_CAUSE_MESSAGE_BYTES = 200

PART_CHARACTERS = 2000
"""Of a traceback in one line."""

MAX_PARTS = 20
"""Lines that one traceback may take. Its end, which says most, is kept."""

_NAMES = ("agent_id", "pipeline_id", "step_id", "flow_id", "item", "prompt_file")

log = structlog.get_logger(__name__)


def log_failure(failed: RunFailed) -> None:
    """Logs one event with the exception and its places; on DEBUG also the whole traceback."""
    failure = failed.failure
    names = {name: failure.details[name] for name in _NAMES if failure.details.get(name)}
    log.error("run_failed", **_said(failure), **names, **_places(failed))
    if failed.error is not None and log.is_enabled_for(logging.DEBUG):
        parts = _traceback(failed.error)
        for number, text in enumerate(parts, 1):
            log.debug("run_traceback", part=number, parts=len(parts), text=text)


def _said(failure: Failure) -> dict[str, str]:
    return {"type": failure.type, "message": failure.message[:MAX_LOGGED_MESSAGE_CHARACTERS]}


def _places(failed: RunFailed) -> dict[str, Any]:
    """`at` are the places of the exception; `causes` are the exceptions it was raised from, or in
    the handling of, with theirs.

    They are in the agent's files or, if the exception has never been there, the last ones of all.
    """
    if failed.error is None:
        return {}
    try:
        reason, _ = reason_and_others(failed.error)
        at = _at(reason, failed) or _at(failed.error, failed) or _anywhere(reason)
        below = [
            {**_in_short(cause), "at": _at(cause, failed)[-MAX_PLACES_OF_A_CAUSE:]}
            for cause in causes(reason, also_handled=True)[1:]
        ]
    except Exception:  # a line without a place is better than none
        return {}
    return {"at": at, "causes": below} if below else {"at": at}


def _in_short(cause: BaseException) -> dict[str, str]:
    failure = failure_from(cause, {}, MAX_CAUSE_MESSAGE_BYTES)
    return {"type": failure.type, "message": failure.message}


def _at(error: BaseException, failed: RunFailed) -> list[str]:
    if not isinstance(failed.flow, PythonFlow):
        return []
    found = places(error, failed.flow.folder)[-MAX_PLACES:]
    return [f"{place.path}:{place.line} {place.function}" for place in found]


def _anywhere(error: BaseException) -> list[str]:
    return [f"{path}:{line} {function}" for path, line, function in frames(error)][-MAX_PLACES:]


def _traceback(error: BaseException) -> list[str]:
    """The traceback as Python prints it, masked, in parts that fit into a line each."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # the exception's own code may raise anything
        text = "The traceback cannot be read."
    # Masked as a whole: a secret may stand on the line after its label, and so in the next part.
    return _parts(mask(text[-2 * MAX_PARTS * PART_CHARACTERS :]))[-MAX_PARTS:]


def _parts(text: str) -> list[str]:
    """The text cut at the ends of lines, so that no line is in two parts unless it is too long."""
    parts = [""]
    for line in text.splitlines(keepends=True):
        if parts[-1] and len(parts[-1]) + len(line) > PART_CHARACTERS:
            parts.append("")
        parts[-1] += line[:PART_CHARACTERS]
    return parts
