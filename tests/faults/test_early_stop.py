"""A stop that comes while the service is still starting ends it cleanly, whenever it comes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.process.prctl import end_with_parent
from tests.support.service import BIN, ROOT, free_port
from tools.embedded_store import EmbeddedStore

COMMANDS = {
    "web": [str(BIN / "gunicorn"), "wsgi:app"],
    "worker": [str(BIN / "python"), "worker.py"],
}
TIMES = 12
LONGEST_SECONDS = 1.0
BEFORE_THE_HANDLER = -signal.SIGTERM
"""What a process returns that SIGTERM ends while Python starts: nothing has been started yet."""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def start(store_server: EmbeddedStore, log: Path) -> Start:
    def run(*command: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={
                    **os.environ,
                    "REDIS_URL": f"{store_server.url}?db=4",
                    "PORT": str(free_port()),
                    "WORKER_PROCESSES": "2",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stop_in_the_first_second_ends_it_without_a_trace(
    start: Start, log: Path, name: str
) -> None:
    for number in range(TIMES):
        process = start(*COMMANDS[name])
        # Over the whole second, and not only where the last run happened to be.
        time.sleep((number + random.random()) * LONGEST_SECONDS / TIMES)
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(15) in (0, BEFORE_THE_HANDLER)  # gunicorn kills after 20 s what hangs
        assert "Traceback" not in log.read_text()
        assert '"level": "error"' not in log.read_text()
        assert psutil.wait_procs(below, timeout=15)[1] == []


CONFIGURATION = """
import os, runpy, signal
globals().update(
    {name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"}
)
heed = post_fork

def post_fork(server, worker):
    if worker.age == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    heed(server, worker)
"""


def test_a_stop_that_comes_right_after_the_fork_of_a_web_process_is_not_lost(
    start: Start, log: Path, tmp_path: Path
) -> None:
    """The process still has the master's handlers then, which only queue signals."""
    configuration = tmp_path / "conf.py"
    configuration.write_text(CONFIGURATION)
    process = start(*COMMANDS["web"], "--config", str(configuration))
    deadline = time.monotonic() + 60
    # The first of two processes ends, and the master replaces it.
    while log.read_text().count("Booting worker") < 3:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 0
