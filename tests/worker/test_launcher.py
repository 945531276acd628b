"""`make run`: it starts and ends all processes, and loses no execution meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from app.process.prctl import end_with_parent
from tests.support.service import ROOT, free_port

Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def launch(tmp_path: Path, port: int) -> Iterator[Launch]:
    started: list[subprocess.Popen[str]] = []

    def start(**env: str) -> subprocess.Popen[str]:
        plain = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        log = (tmp_path / "run.log").open("a")
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tools.run"],
                cwd=ROOT,
                env={
                    **plain,
                    "PORT": str(port),
                    "DATA_DIR": str(tmp_path / "data"),
                    "WEB_CONCURRENCY": "1",
                    **env,
                },
                stdout=log,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        )
        log.close()
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=40)


def answers(port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            requests.get(f"http://127.0.0.1:{port}/healthz", timeout=1)
            return
        except requests.RequestException:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def run_one(port: int) -> str:
    url = f"http://127.0.0.1:{port}/api/v1/executions"
    body = {"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "Hello."}}
    id = requests.post(url, json=body, timeout=10).json()["execution_id"]
    deadline = time.monotonic() + 20
    while requests.get(f"{url}/{id}", timeout=10).json()["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return str(id)


def everything(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(launcher.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process_and_a_new_start_has_every_execution(
    launch: Launch, port: int, number: signal.Signals
) -> None:
    launcher = launch()
    answers(port)
    id = run_one(port)
    processes = everything(launcher)
    assert len(processes) >= 6
    launcher.send_signal(number)
    assert launcher.wait(60) == 0
    assert [
        process
        for process in processes
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ] == []
    launch()
    answers(port)
    kept = requests.get(f"http://127.0.0.1:{port}/api/v1/executions/{id}", timeout=10).json()
    assert kept["status"] == "completed"


def test_a_launcher_that_is_killed_leaves_nothing_behind(launch: Launch, port: int) -> None:
    launcher = launch()
    answers(port)
    processes = everything(launcher)
    launcher.kill()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []


def test_a_process_that_dies_is_started_again(launch: Launch, port: int) -> None:
    launcher = launch()
    answers(port)
    run_one(port)
    worker = next(
        process for process in everything(launcher) if "worker.py" in " ".join(process.cmdline())
    )
    worker.kill()
    run_one(port)


def test_a_port_that_is_taken_is_said_in_one_line(launch: Launch, port: int) -> None:
    launch()
    answers(port)
    second = launch()
    assert second.wait(60) == 1
    assert second.stderr is not None
    assert second.stderr.read().splitlines() == [
        f"Port {port} cannot be used (Address already in use). "
        "Choose another one: PORT=8001 make run"
    ]


def test_data_that_is_in_use_is_not_opened_twice(launch: Launch, port: int) -> None:
    launch()
    answers(port)
    second = launch(PORT=str(free_port()))
    assert second.wait(60) == 1
    assert second.stderr is not None
    assert "Another process uses the data" in second.stderr.read()


def test_with_a_store_of_ones_own_no_server_is_started(
    launch: Launch, port: int, store_server
) -> None:
    launcher = launch(REDIS_URL=f"{store_server.url}?db=3")
    answers(port)
    run_one(port)
    assert [process for process in everything(launcher) if "valkey" in process.name()] == []


def test_a_mistake_in_the_configuration_is_said_and_ends_it(launch: Launch) -> None:
    launcher = launch(WORKER_THREADS="many")
    assert launcher.wait(60) == 1
    assert launcher.stderr is not None
    errors = launcher.stderr.read()
    assert "WORKER_THREADS: Not a valid integer." in errors
    assert "Traceback" not in errors


def test_a_env_file_is_read_by_the_launcher_and_what_is_set_already_wins(
    launch: Launch, port: int, tmp_path: Path
) -> None:
    (tmp_path / "dev.env").write_text("WORKER_THREADS=many\nLEASE=5\n")
    launcher = launch(ENV_FILE=str(tmp_path / "dev.env"), LEASE="never")
    assert launcher.wait(60) == 1
    assert launcher.stderr is not None
    errors = launcher.stderr.read()
    assert "WORKER_THREADS: Not a valid integer." in errors
    assert "LEASE: Not a valid number." in errors


def test_a_flow_that_cannot_be_imported_is_told_before_it_is_started(
    launch: Launch, port: int, tmp_path: Path
) -> None:
    folder = tmp_path / "agents" / "broken"
    folder.mkdir(parents=True)
    (folder / "agent.yaml").write_text("flows:\n- {name: f, entrypoint: 'flow.py:run'}\n")
    (folder / "flow.py").write_text("def run(inputs): return 1\n1 / 0\n")
    (tmp_path / "pipelines").mkdir()
    process = launch(
        AGENTS_PATH=str(folder.parent),
        PIPELINES_PATH=str(tmp_path / "pipelines"),
        WORKER_PROCESSES="1",
        PYTHONUNBUFFERED="1",
    )
    answers(port)  # it runs all the same
    assert process.stderr is not None
    told = next(line for line in process.stderr if "cannot be imported" in line)
    assert f"{folder}/agent.yaml:2: flows.0.entrypoint: flow.py cannot be imported: Zero" in told
    assert f'{folder}/flow.py", line 2' in process.stderr.readline()
