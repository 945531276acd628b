"""Logs that nobody reads (a terminal after Ctrl-S, a pipe whose reader sleeps) block no service."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.hostile.neighbours import unharmed
from tests.support.agents import write_agent
from tests.support.service import ROOT, Service, free_port
from tests.worker.test_launcher import answers, everything, run_one
from tools.embedded_store import EmbeddedStore

FLOW = """
import logging, os, sys

def run(inputs, context):
    for number in range(2000):
        print(number, "x" * 100)
        print(number, "x" * 100, file=sys.stderr)
        os.write(1, b"x" * 100 + b"\\n")  # as a library in C, which waits for its reader
        context.log("line", number=number, text="x" * 1000)
        logging.getLogger("a.library").warning("line %s", number)
    return {"output": "said"}
"""
AGENT = """
flows:
  - {name: thread, entrypoint: "flow.py:run", isolation: thread}
  - {name: process, entrypoint: "flow.py:run"}
"""


class Unread(Service):
    """A service whose processes write stdout and stderr to `output_end`."""

    output_end: int

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.env,
            stdout=self.output_end,
            stderr=self.output_end,
            start_new_session=True,
        )

    def output(self, name: str) -> str:
        return ""


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    write_agent(tmp_path / "agents", "chatters", AGENT, FLOW)
    return tmp_path / "agents"


@pytest.fixture(params=["pipe", "stopped terminal", "unread terminal"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Yields the end to read from and the end to write to."""
    ours, theirs = os.pipe() if request.param == "pipe" else pty.openpty()
    if request.param == "stopped terminal":
        termios.tcflow(theirs, termios.TCOOFF)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


@pytest.mark.timeout(300)
def test_neighbours_start_and_finish_and_what_was_dropped_is_told_once_it_is_read(
    store_server: EmbeddedStore, tmp_path: Path, agents: Path, ends: tuple[int, int]
) -> None:
    with redis.Redis.from_url(store_server.url, db=2) as client:
        client.flushdb()
    service = Unread(
        f"{store_server.url.removesuffix('/0')}?db=2", tmp_path, agents=agents, WORKER_THREADS=20
    )
    service.output_end = ends[1]
    with service:
        for flow in ("thread", "process"):
            with unharmed(service, flow):
                chatter = service.start("chatters", config={"flow_id": flow})
            assert service.ended(chatter, seconds=120)["outputs"]["output"] == "said"
            for _ in range(300):  # the web process logs a line for each
                assert service.get("/executions/exec_000000000000").status_code == 404
            with unharmed(service, flow):
                pass
        if os.isatty(ends[1]):
            termios.tcflow(ends[1], termios.TCOON)
        _until_dropped_lines_are_told(ends[0])


def _until_dropped_lines_are_told(end: int) -> None:
    """Reads the log. That must be enough for the dropped lines to be counted in it."""
    text, deadline = b"", time.monotonic() + 60
    while b"log_lines_dropped" not in text:
        assert time.monotonic() < deadline, text[-3000:]
        if select.select([end], [], [], 0.1)[0]:
            text += os.read(end, 65536)


@pytest.mark.timeout(180)
def test_a_launcher_whose_terminal_is_stopped_serves_restarts_and_ends(tmp_path: Path) -> None:
    """The launcher prints to the same terminal. Ctrl-C must work after Ctrl-S."""
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)
    port = free_port()
    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    env |= {
        "PORT": str(port),
        "DATA_DIR": str(tmp_path / "data"),
        "WEB_CONCURRENCY": "1",
        "LOG_LEVEL": "DEBUG",
    }
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tools.run"],
        cwd=ROOT,
        env=env,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        answers(port, seconds=60)
        run_one(port)
        worker = next(
            process
            for process in everything(launcher)
            if "worker.py" in " ".join(process.cmdline())
        )
        worker.kill()
        run_one(port)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(60) == 0
    finally:
        launcher.kill()
        launcher.wait()
        os.close(ours)
        os.close(theirs)
