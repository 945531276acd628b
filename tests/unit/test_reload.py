"""How `make run` sees, by the processes below the web, how a reload has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from app.process.prctl import end_with_parent
from tools.processes import Running
from tools.reload import Reload

# As the web master does: a process that loads everything and ends; then, if it could, new ones.
MASTER = """
import signal, subprocess, time

def start(seconds):
    return subprocess.Popen(["sleep", seconds])

def reload(*_):
    global serving
    start("1").wait()
    time.sleep(1)  # the new processes do not follow at once
    if {accepts}:
        new = start("600")
        serving.kill()
        serving.wait()
        serving = new

serving = start("600")
signal.signal(signal.SIGHUP, reload)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def web() -> Iterator[Callable[[bool], Running]]:
    started: list[Running] = []

    def start(accepts: bool) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-c", MASTER.format(accepts=accepts)],
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        assert process.stdout is not None
        process.stdout.readline()
        started.append(Running("web", "", process, time.monotonic()))
        return started[-1]

    yield start
    for running in started:
        children = running.children()
        running.process.kill()
        for pid in children:  # they hold its output open, too
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.process.communicate()


@pytest.mark.parametrize(
    ("accepts", "said"),
    [
        (True, "reloaded: agents/a changed"),
        (False, "not reloaded by web, which has met a mistake: agents/a changed"),
    ],
)
def test_a_reload_ends_with_new_processes_or_with_the_old_ones_alone(
    web: Callable[[bool], Running], accepts: bool, said: str
) -> None:
    reload = Reload("agents/a changed", [web(accepts)])
    deadline = time.monotonic() + 25  # after 30 s it ends without knowing how
    while (end := reload.end()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert end == said
