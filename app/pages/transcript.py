"""Puts together what an execution has said so far: answers of models, and lines of its log.

Pure functions, for the page of one execution. What comes later is added by `static/execution.js`,
which uses the same keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.events import Event

MAX_ANSWER = 32 * 1024
"""How many characters of an answer are shown: the last ones."""

MAX_ANSWERS = 20
"""How many answers are shown: the last ones."""

MAX_LINES = 200
"""How many lines of the log are shown: the last ones."""

MAX_FIELDS = 2000
"""How many characters of the fields of a line are shown."""

TYPES = frozenset({"output.delta", "log", "started"})


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The answer of one model call. `is_cut`: its beginning is left out."""

    key: str
    title: str
    text: str
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a flow has logged. `source` is the step, and the item of its batch."""

    at: datetime
    source: str
    message: str
    fields: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """`attempt` is the attempt that the last event belongs to; 1 if that is not known."""

    answers: tuple[ModelAnswer, ...] = ()
    lines: tuple[Line, ...] = ()
    are_lines_cut: bool = False
    attempt: int = 1


def transcript(events: Iterable[Event]) -> Transcript:
    attempt, lines = 1, list[Line]()
    pieces: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    for event in events:
        if event.type == "started":
            attempt = event.data.get("attempt", attempt)
        elif event.type == "log":
            lines.append(_line(event))
        elif event.type == "output.delta":
            key = _key(attempt, event.data)
            titles[key] = _title(attempt, event.data)
            pieces.setdefault(key, []).append(str(event.data.get("text", "")))
    last = list(pieces.items())[-MAX_ANSWERS:]
    answers = tuple(_answer(key, titles[key], "".join(texts)) for key, texts in last)
    return Transcript(answers, tuple(lines[-MAX_LINES:]), len(lines) > MAX_LINES, attempt)


def _answer(key: str, title: str, text: str) -> ModelAnswer:
    return ModelAnswer(key, title, text[-MAX_ANSWER:], len(text) > MAX_ANSWER)


def _line(event: Event) -> Line:
    data = event.data
    fields = data.get("fields")
    return Line(
        at=event.at,
        source=_source(data),
        message=str(data.get("message", "")),
        fields=json.dumps(fields, ensure_ascii=False)[:MAX_FIELDS] if fields else "",
    )


def _key(attempt: int, data: dict[str, Any]) -> str:
    step, item = data.get("step") or "", data.get("item")
    return f"{attempt}/{step}/{'' if item is None else item}/{data.get('call')}"


def _title(attempt: int, data: dict[str, Any]) -> str:
    call = data.get("call")
    parts = [_source(data), f"call {call}" if call != 1 else ""]
    parts.append(f"attempt {attempt}" if attempt > 1 else "")
    return ", ".join(part for part in parts if part) or "Answer"


def _source(data: dict[str, Any]) -> str:
    step, item = data.get("step") or "", data.get("item")
    return step if item is None else f"{step}, item {item}".removeprefix(", ")
