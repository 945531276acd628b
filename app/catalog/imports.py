"""Imports the entry points of all Python flows in a process of its own, and says which fail.

`python -m app.catalog check` does this, and the release phase. The services themselves do not:
importing heavy packages would delay each of their starts, and what an import needs (a server, a
key) may be missing for a moment. At a start, `entrypoints` reads the files without running them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from app.catalog.documents import read
from app.catalog.model import Agent, Catalog, PythonFlow
from app.process.prctl import end_with_parent
from app.telemetry.masking import mask

IMPORT_SECONDS = 60.0
"""For one entry point. Large packages take seconds, or tens of them on a busy machine."""

_SHOWN_LINES = 5
_CHILD = "app.runtime.import_entrypoints"
"""By name: the catalog knows nothing of the runtime, whose way of loading flows counts here."""


def problems(catalog: Catalog, seconds: float = IMPORT_SECONDS) -> Iterator[str]:
    """For each entry point that fails: file, line and reason, and then lines with its places."""
    flows = [
        (agent, flow)
        for agent in catalog.agents.values()
        for flow in agent.flows.values()
        if isinstance(flow, PythonFlow)
    ]
    reasons = _reasons([flow for _, flow in flows], seconds)
    for (agent, flow), reason in zip(flows, reasons, strict=True):
        if reason is not None:
            head, *more = reason.splitlines()
            yield "\n".join([_line(agent, flow, head), *(f"    {line}" for line in more)])


def _line(agent: Agent, flow: PythonFlow, reason: str) -> str:
    """The problem in the form of all others, with its line in the agent's file."""
    files = [flow.folder / f"agent{suffix}" for suffix in (".yaml", ".yml")]
    document = read(next((file for file in files if file.exists()), files[0]))
    names = [written["name"] for written in document.data["flows"]]
    place = ("flows", names.index(flow.name), "entrypoint")
    return document.lines([(place, reason)])[0]


def _reasons(flows: Sequence[PythonFlow], seconds: float) -> list[str | None]:
    """Why each flow fails, or None. A process that ends before its time is replaced by another."""
    reasons: list[str | None] = []
    while len(reasons) < len(flows):
        rest = flows[len(reasons) :]
        with tempfile.TemporaryFile() as printed:
            child = _start(rest, seconds, printed)
            try:
                found = list(_results(child, len(rest), seconds))
            finally:
                is_late = not _ends_by_itself(child)
            reasons += found
            if len(found) < len(rest):
                file = rest[len(found)].folder / rest[len(found)].entrypoint.rpartition(":")[0]
                lines = _last_lines(printed)
                reasons.append(
                    _why_late(file, seconds, lines) if is_late else _why_ended(file, child, lines)
                )
    return reasons


def _start(
    flows: Sequence[PythonFlow], seconds: float, printed: IO[bytes]
) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "API_KEYS"}
    child = subprocess.Popen(  # noqa: S603  our own module
        [sys.executable, "-m", _CHILD, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=printed,
        cwd=Path(__file__).parent.parent.parent,
        env=environment,
        start_new_session=True,  # what the code starts is ended with it
        preexec_fn=end_with_parent,
    )
    wanted = json.dumps([(str(flow.folder), flow.entrypoint) for flow in flows])
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already; its exit code is reported
        child.stdin.write(wanted.encode())
        child.stdin.close()
    return child


def _results(child: subprocess.Popen[bytes], expected: int, seconds: float) -> Iterator[str | None]:
    """The results until there are all, the process has ended, or one takes too long."""
    assert child.stdout is not None
    received = b""
    # Its own start takes a moment, and it should have time to say where an import is stuck.
    deadline = time.monotonic() + seconds + 10
    while expected:
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(child.stdout.fileno(), 65536) if ready else b""
        if not chunk:
            return
        *lines, received = (received + chunk).split(b"\n")
        for line in lines:
            expected -= 1
            deadline = time.monotonic() + seconds + 1
            yield json.loads(line)


def _ends_by_itself(child: subprocess.Popen[bytes]) -> bool:
    """Ends the process and all that it started. False if the process had not ended by itself."""
    try:
        child.wait(0.5)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _last_lines(printed: IO[bytes]) -> list[str]:
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - 100_000))
    return mask(printed.read().decode(errors="replace")).splitlines()


def _why_late(file: Path, seconds: float, lines: list[str]) -> str:
    # The process has written the places of its threads, as it was about to be late.
    stuck = [line for line in lines if line.startswith(f'  File "{file.parent}')][:_SHOWN_LINES]
    where = " It is here:" if stuck else ""
    return "\n".join([f"Importing {file.name} takes longer than {seconds:g} s.{where}", *stuck])


def _why_ended(file: Path, child: subprocess.Popen[bytes], lines: list[str]) -> str:
    code = child.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return "\n".join([f"Importing {file.name} ends the process ({how}).", *lines[-_SHOWN_LINES:]])
