"""`make run`'s launcher: everything starts, everything ends, nothing is lost in between. What an
author edits is what runs next.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from app.process.prctl import end_with_parent
from tests.support.pace import within
from tests.support.service import ROOT, free_port

Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def launch(tmp_path: Path, port: int) -> Iterator[Launch]:
    started: list[subprocess.Popen[str]] = []

    def start(stderr_too: str = "", **env: str) -> subprocess.Popen[str]:
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
                stderr=log if stderr_too else subprocess.PIPE,
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


# Edits. The launcher's own lines are in `run.log`; what it complains about is there too.

FLOW = """
import time

def run(inputs, context):
    context.progress(0, 1, "begun")
    time.sleep(inputs.get("seconds", 0))
    return "{answer}"
"""


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    shutil.copytree(ROOT / "agents", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "greeter").mkdir()
    (folder / "greeter" / "greet.py").write_text(FLOW.format(answer="old"))
    (folder / "greeter" / "agent.yaml").write_text(
        "flows:\n  - {name: default, entrypoint: 'greet.py:run'}\n"
    )
    return folder


class Edited:
    """`make run` with agents that a test edits. Its lines are read from a file."""

    def __init__(self, launch: Launch, port: int, folder: Path, agents: Path, **env: str):
        self.url, self.agents = f"http://127.0.0.1:{port}/api/v1/executions", agents
        self._log = folder / "run.log"
        self.process = launch(AGENTS_PATH=str(agents), stderr_too="yes", **env)
        self.waits_for("ready after ")

    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def waits_for(self, start: str, seconds: float = 90) -> str:
        deadline = time.monotonic() + seconds
        while not (found := [line for line in self.lines() if line.startswith(start)]):
            assert time.monotonic() < deadline, "\n".join(self.lines()[-40:])
            time.sleep(0.05)
        return found[-1]

    def edit(self, answer: str) -> None:
        (self.agents / "greeter" / "greet.py").write_text(FLOW.format(answer=answer))

    def start(self, seconds: float = 0) -> str:
        body = {"type": "agent", "target_id": "greeter", "inputs": {"seconds": seconds}}
        return str(requests.post(self.url, json=body, timeout=60).json()["execution_id"])

    def ended(self, id: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while True:
            body = dict(requests.get(f"{self.url}/{id}", timeout=60).json())
            if body["status"] in ("completed", "failed", "cancelled"):
                return body
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def run(self) -> Any:
        return self.ended(self.start())["outputs"]["output"]

    def until_begun(self, id: str) -> None:
        """Until the flow's own code runs. The process may load it after the status says so."""
        deadline = time.monotonic() + 60
        while (
            requests.get(f"{self.url}/{id}", timeout=60).json()["progress"]["current_step_name"]
            != "begun"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def edited(launch: Launch, port: int, tmp_path: Path, agents: Path) -> Edited:
    return Edited(launch, port, tmp_path, agents)


def test_it_says_ready_when_an_execution_can_run_and_what_it_has_loaded(
    launch: Launch, port: int, tmp_path: Path, agents: Path
) -> None:
    edited = Edited(launch, port, tmp_path, agents)
    assert requests.get(f"http://127.0.0.1:{port}/readyz", timeout=60).status_code == 200
    said = "\n".join(edited.lines())
    ours = f"http://localhost:{port}"
    assert f" s: {ours}/ and {ours}/docs/" in edited.waits_for("ready after ")
    assert "  7 agents: entity_extractor, greeter, " in said
    assert "  2 pipelines: customer_service_flow, document_summary\n" in said
    pids = dict(re.findall(r"(web|worker|store) (\d+)", edited.waits_for("  process ids: ")))
    below = {process.pid for process in everything(edited.process)}
    assert {int(pid) for pid in pids.values()} <= below
    assert len(pids) == 3
    assert "A second Ctrl-C ends everything at once." in said


def test_an_edited_flow_runs_next_and_a_running_one_ends_as_it_began(edited: Edited) -> None:
    assert edited.run() == "old"
    running = edited.start(seconds=5)
    edited.until_begun(running)
    edited.edit("new")  # of the same length, and perhaps within the same second
    assert edited.waits_for("reloaded: ") == "reloaded: agents/greeter changed"
    assert edited.run() == "new"
    ended = edited.ended(running)
    assert (ended["outputs"]["output"], ended["attempt"]) == ("old", 1)


def test_a_broken_file_keeps_the_old_version_and_says_why_until_it_is_mended(
    edited: Edited,
) -> None:
    definition = edited.agents / "greeter" / "agent.yaml"
    good = definition.read_text()
    definition.write_text("flows: 5\n")
    edited.waits_for("not reloaded, the old version stays in use: agents/greeter changed")
    edited.waits_for(f"{definition}:1: flows: ")
    assert edited.run() == "old"
    definition.write_text(good + "description: Greets.\n")
    edited.waits_for("reloaded: agents/greeter changed")
    assert edited.run() == "old"


def test_a_new_agent_a_new_pipeline_and_a_changed_prompt_count_at_once(
    launch: Launch, port: int, tmp_path: Path, agents: Path
) -> None:
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    edited = Edited(launch, port, tmp_path, agents, PIPELINES_PATH=str(pipelines))
    (pipelines / "welcome.yaml").write_text(
        "steps:\n  - {id: greet, agent: greeter, output_key: greeting}\n"
    )
    edited.waits_for("reloaded: pipelines/welcome added")
    body = {"type": "pipeline", "target_id": "welcome", "inputs": {}}
    answer = requests.post(edited.url, json=body, timeout=60)
    assert answer.status_code == 202
    assert edited.ended(answer.json()["execution_id"])["outputs"]["greeting"] == "old"
    prompt = next((agents / "mem_l1_summarizer" / "prompts").iterdir())
    prompt.write_text(prompt.read_text() + "# edited\n")
    edited.waits_for("reloaded: agents/mem_l1_summarizer changed")


def test_what_a_flow_writes_beside_its_code_is_no_reload(edited: Edited) -> None:
    edited.run()
    (edited.agents / "greeter" / "cache.json").write_text("{}")
    (edited.agents / "greeter" / "greet.py").touch()
    time.sleep(3)
    assert [line for line in edited.lines() if line.startswith("reloaded")] == []
    assert not list(edited.agents.rglob("*.pyc"))


def test_the_first_ctrl_c_says_what_it_waits_for_and_the_second_ends_everything_at_once(
    edited: Edited,
) -> None:
    edited.until_begun(edited.start(seconds=60))
    processes = everything(edited.process)
    edited.process.send_signal(signal.SIGINT)
    edited.waits_for("Stopping. Waiting for 1 running execution, for up to 20 s; ")
    began = time.monotonic()
    edited.process.send_signal(signal.SIGINT)
    assert edited.process.wait(60) == 0
    assert time.monotonic() - began < within(3)
    assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_a_mistake_in_a_file_is_said_once_and_nothing_is_started(
    launch: Launch, agents: Path
) -> None:
    (agents / "greeter" / "agent.yaml").write_text("flows: 5\n")
    launcher = launch(AGENTS_PATH=str(agents))
    assert launcher.wait(60) == 1
    assert launcher.stderr is not None
    [line] = launcher.stderr.read().splitlines()
    assert "greeter/agent.yaml:1: flows: " in line
