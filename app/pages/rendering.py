"""Renders templates: `page` for a view's answer.

The environment escapes everything, makes hidden characters visible (but not in `| e`, for fields of
forms, which are sent as they are), and refuses a template that uses an unknown name.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from flask import g, request
from jinja2 import Environment, PackageLoader, StrictUndefined

from app.api.application import Answer
from app.domain.key import Identity, Scope
from app.domain.version import VERSION
from app.pages import assets, sessions, words
from app.process.aside import give_way

CONTENT_TYPE = "text/html; charset=utf-8"

TURN_SECONDS = 0.01
"""A page that takes longer to render lets other requests run after about this time."""


def _shown(value: Any) -> Any:
    """What a template shows of a value. `Markup` is a text that is escaped already."""
    return words.visible(value) if type(value) is str else value


_environment = Environment(
    loader=PackageLoader("app.pages"),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.globals |= {"asset": assets.url, "version": VERSION, "Scope": Scope}
_environment.filters |= {
    "ago": words.ago,
    "duration": words.duration,
    "exact": words.exact,
    "iso": words.iso,
    "number": words.number,
}


def page(template: str, status: int = 200, **values: Any) -> Answer:
    """The answer with this template. `values` are what it shows."""
    return answer(render(template, **values), status)


def answer(text: str, status: int = 200) -> Answer:
    """The answer with a text that is rendered already."""
    # JSON can hold halves of surrogate pairs, which UTF-8 cannot.
    body = text.encode("utf-8", "backslashreplace")
    answer = Answer(body, status, content_type=CONTENT_TYPE)
    answer.is_refusal = status >= 400
    return answer


def render(template: str, **values: Any) -> str:
    """The text of a template. Every template knows `caller` (None before the login), `now`, `here`
    (the path of the page) and `csrf_token`, which `csrf.html` puts into a form.
    """
    caller: Identity | None = g.get("identity")
    shared = {
        "caller": caller,
        "now": datetime.now(UTC),
        "here": request.path,
        "csrf_token": sessions.sessions().token(sessions.present()),
    }
    _compile_templates()
    return "".join(_in_turns(_environment.get_template(template).generate(shared | values)))


@functools.cache
def _compile_templates() -> None:
    """Compiles all templates before the first page, one by one, so that other requests get their
    turn in between. A process that shows no pages spares the time and the memory.
    """
    for name in _environment.list_templates():
        _environment.get_template(name)
        give_way()


def _in_turns(parts: Iterable[str]) -> Iterator[str]:
    """The parts of a text as they are made. Other requests get their turn in between: the page of
    an execution with large values takes a tenth of a second.
    """
    until = time.monotonic() + TURN_SECONDS
    for part in parts:
        yield part
        if time.monotonic() > until:
            give_way()
            until = time.monotonic() + TURN_SECONDS
