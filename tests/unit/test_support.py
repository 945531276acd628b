"""The test support: a service and its store end with the test run, even if that is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.service import ROOT

RUNNER = """
import os, signal, sys, time
from pathlib import Path
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore
folder = Path(sys.argv[1])
store = EmbeddedStore(folder / "store", durable=False, end_signal=signal.SIGKILL)
store.start()
with Service(store.url, folder) as service:
    service.run("behaves", {"do": "echo"})
    if sys.argv[2] == "frozen":
        for pid in (service.web.pid, service.workers[0].pid, store.pid):
            os.kill(pid, signal.SIGSTOP)
    print("started", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("state", ["running", "frozen"])
def test_a_service_and_its_store_end_with_tests_that_are_killed(tmp_path: Path, state: str) -> None:
    command = [sys.executable, "-c", RUNNER, str(tmp_path), state]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "started\n"
        started = psutil.Process(runner.pid).children(recursive=True)
        assert len(started) >= 4
        runner.kill()
    _, alive = psutil.wait_procs(started, timeout=40)
    assert alive == []
