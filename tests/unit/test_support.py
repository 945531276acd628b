"""The test support: a service and its store end with the test run, even if that is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.service import ROOT

RUNNER = """
import sys, time
from pathlib import Path
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore
folder = Path(sys.argv[1])
store = EmbeddedStore(folder / "store", durable=False)
store.start()
with Service(store.url, folder) as service:
    service.run("behaves", {"do": "echo"})
    print("started", flush=True)
    time.sleep(600)
"""


def test_a_service_and_its_store_end_when_the_test_run_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUNNER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "started\n"
        started = psutil.Process(runner.pid).children(recursive=True)
        assert len(started) >= 4
        runner.kill()
    _, alive = psutil.wait_procs(started, timeout=40)
    assert alive == []
