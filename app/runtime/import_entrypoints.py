"""Imports the entry points of flows, as a run would: `python -m app.runtime.import_entrypoints`.

`app.catalog.imports` starts it as a process of its own, because importing runs the code of authors:
it may take long, end the process, or change it. The standard input has a JSON list of
`[folder, entrypoint]`. For each of them, a line with null or with the reason why it cannot be used
goes to the standard output. What the code itself prints goes to the standard error.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from app.catalog.model import PythonFlow
from app.runtime.errors import FlowError
from app.runtime.python_flow import entry_point
from app.telemetry.masking import mask

MAX_REASON_CHARACTERS = 4000
MAX_PLACES = 5


def main(seconds: float) -> None:
    """Imports one after the other. After `seconds` with one of them, says where it is."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for folder, entrypoint in json.load(sys.stdin):
        with _unchanged(Path(folder)):
            faulthandler.dump_traceback_later(seconds, file=sys.__stderr__ or 2)
            reason = problem(Path(folder), entrypoint)
            faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reason), file=results, flush=True)


def problem(folder: Path, entrypoint: str) -> str | None:
    """Why an entry point cannot be used; None if it can."""
    try:
        entry_point(PythonFlow("", entrypoint, folder))
    except FlowError as error:
        return str(error)
    except BaseException as error:  # SystemExit, too
        file = entrypoint.rpartition(":")[0]
        said = "".join(traceback.format_exception_only(error)).rstrip()
        head, *more = said.splitlines() if not isinstance(error, SyntaxError) else ["", said]
        text = "\n".join([f"{file} cannot be imported: {head}".rstrip(": "), *more])
        return mask("\n".join([text, *_places(error, folder)]))[:MAX_REASON_CHARACTERS]
    return None


def _places(error: BaseException, folder: Path) -> list[str]:
    """Where in the author's files it was raised, the outermost place first."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    # The module of an installed package: all that is neither Python's nor the service's.
    others = [frame for frame in frames if not frame.filename.startswith(_LOADING)]
    shown = traceback.StackSummary.from_list((own or others)[-MAX_PLACES:])
    return "".join(shown.format()).rstrip().splitlines()


_SERVICE = str(Path(__file__).parent.parent)
_LOADING = ("<", _SERVICE, str(Path(importlib.__file__).parent))


@contextlib.contextmanager
def _unchanged(folder: Path) -> Iterator[None]:
    """Takes back what one agent's import could do to that of the next: paths and modules."""
    place, path, environment = os.getcwd(), list(sys.path), dict(os.environ)
    before = set(sys.modules)
    yield
    os.chdir(place)
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(folder):
            del sys.modules[name]


if __name__ == "__main__":
    main(float(sys.argv[1]))
