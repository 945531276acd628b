"""The Procfile as a developer starts it: with honcho, which ends all processes when one ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from app.process.prctl import end_with_parent
from tests.support.service import BIN, OWN_BIN, ROOT, free_port
from tests.worker.test_launcher import run_one
from tools.embedded_store import EmbeddedStore

Honcho = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def honcho(tmp_path: Path, log: Path, own_store: EmbeddedStore) -> Iterator[Honcho]:
    """`honcho start`, with its settings in a `.env` as a developer has them."""
    started: list[subprocess.Popen[bytes]] = []
    plain = {name: value for name, value in os.environ.items() if name not in ("PORT", "REDIS_URL")}

    def start(**settings: str) -> subprocess.Popen[bytes]:
        folder = tmp_path / f"copy{len(started)}"
        folder.mkdir()
        for name in ("app", "agents", "pipelines", "wsgi.py", "worker.py", "gunicorn.conf.py"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copy(ROOT / "Procfile", folder)
        lines = {"REDIS_URL": own_store.url, "WEB_CONCURRENCY": "1", **settings}
        (folder / ".env").write_text("".join(f"{name}={text}\n" for name, text in lines.items()))
        with log.open("wb") as output:
            started.append(
                subprocess.Popen(
                    [OWN_BIN / "honcho", "start"],
                    cwd=folder,
                    env={**plain, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )
            )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=60).status_code == 200
    except requests.RequestException:
        return False


def test_honcho_serves_on_the_port_that_was_chosen_after_the_release_check_has_passed(
    honcho: Honcho, log: Path
) -> None:
    port = free_port()
    process = honcho(PORT=str(port))
    until(lambda: "Ready for release: " in log.read_text(), process, log)
    until(lambda: answers(port), process, log)
    run_one(port)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert psutil.wait_procs(below, timeout=30)[1] == []
    assert "Traceback" not in log.read_text()
    assert "SIGKILL" not in log.read_text()


def test_a_release_check_that_fails_ends_everything_under_honcho(
    honcho: Honcho, log: Path, own_store: EmbeddedStore
) -> None:
    own_store.kill()
    process = honcho(PORT=str(free_port()))
    assert process.wait(120) == 1
    assert "release.1" in log.read_text()
    assert "Traceback" not in log.read_text()
