"""Finds the places in an agent's own files that explain a failure.

`errors.py` puts the innermost one into `error.details.location`, `failure_log.py` writes them all
to the log. Only files inside the agent's folder count, so no other path reaches an answer. The
exceptions are the flow's code, so none of their methods is called.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

MAX_CAUSES = 5
"""How far a chain of causes is followed. It may be a circle."""

MAX_FRAMES = 20_000
"""Far more than Python's limit of recursion allows by default."""

_INSTALLED = ("site-packages", "dist-packages")
"""Packages that an author has installed into the agent's folder are not the author's code."""

_CAUSE = BaseException.__dict__["__cause__"]
_CONTEXT = BaseException.__dict__["__context__"]
_HIDES_CONTEXT = BaseException.__dict__["__suppress_context__"]
_TRACEBACK = BaseException.__dict__["__traceback__"]
_FILENAME = SyntaxError.__dict__["filename"]
_LINE = SyntaxError.__dict__["lineno"]


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code. `file` is relative to the agent's folder, `path` as Python knows it."""

    file: str
    line: int
    function: str
    path: str


def location(error: BaseException, folder: Path) -> Place | None:
    """The place in the agent's files that explains an exception best; None if there is none.

    If the author's own code raised it, that is where. If a library did, a cause that comes from the
    author's code (a function that the library called) explains more than the call of the library.
    An exception that was only being handled meanwhile explains least.
    """
    own = places(error, folder)
    if own and own[-1].path == _raised_in(error):
        return own[-1]
    deeper = [place for cause in causes(error)[1:] if (place := _innermost(cause, folder))]
    if deeper:
        return deeper[-1]
    if own:
        return own[-1]
    context = _CONTEXT.__get__(error)
    return _innermost(context, folder) if context and not _HIDES_CONTEXT.__get__(error) else None


def places(error: BaseException, folder: Path) -> list[Place]:
    """All places of an exception in the agent's files, the innermost last."""
    found = (_place(path, line, function, folder) for path, line, function in frames(error))
    return [place for place in found if place]


def frames(error: BaseException) -> Iterator[tuple[str, int, str]]:
    """Path, line and function of each frame of an exception, the innermost last.

    The code that a `SyntaxError` is about never ran, so it is in no frame. It comes last.
    """
    traceback: TracebackType | None = _TRACEBACK.__get__(error)
    for _ in range(MAX_FRAMES):
        if traceback is None:
            break
        code = traceback.tb_frame.f_code
        yield code.co_filename, traceback.tb_lineno or 0, code.co_name
        traceback = traceback.tb_next
    if issubclass(type(error), SyntaxError):
        path, line = _FILENAME.__get__(error), _LINE.__get__(error)
        if type(path) is str and type(line) is int:
            yield path, line, "<module>"


def causes(error: BaseException, *, also_handled: bool = False) -> list[BaseException]:
    """The exception and the ones it was raised from (`raise ... from`), without repetitions.

    `also_handled`: one that it was raised in the `except` of counts, too, as in a traceback.
    """
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and len(chain) < MAX_CAUSES:
        # By identity: an exception may define an `__eq__` of its own.
        if any(found is known for known in chain):
            break
        chain.append(found)
        cause = _CAUSE.__get__(found)
        handled = also_handled and not _HIDES_CONTEXT.__get__(found)
        found = _CONTEXT.__get__(found) if cause is None and handled else cause
    return chain


def _innermost(error: BaseException, folder: Path) -> Place | None:
    found = places(error, folder)
    return found[-1] if found else None


def _raised_in(error: BaseException) -> str:
    """The path of the file whose code raised an exception."""
    found = list(frames(error))
    return found[-1][0] if found else ""


def _place(path: str, line: int, function: str, folder: Path) -> Place | None:
    """None for code outside of the agent's folder, such as `<string>`."""
    inside = _inside(path, str(folder))
    return Place(inside, line, function, path) if inside else None


@lru_cache(maxsize=4096)
def _inside(path: str, folder: str) -> str:
    """The path relative to the folder; empty if it is outside."""
    if not os.path.isabs(path):
        return ""
    # First as it is written: a file in the folder may be a link to another place.
    for spelled in (os.path.normpath, os.path.realpath):
        inside = os.path.relpath(spelled(path), spelled(folder))
        parts = Path(inside).parts
        if parts and parts[0] != ".." and not any(part in _INSTALLED for part in parts):
            return inside
    return ""
