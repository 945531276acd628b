"""The README's commands and files, taken from it as they stand, run in order with `make run`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import requests

from app.process.prctl import end_with_parent
from tests.support.service import ROOT, free_port

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
FILES = {
    match[1]: text
    for _, text in BLOCKS
    if (match := re.match(r"# ((?:agents|pipelines)/\S+)", text))
}
LINES = [
    line.partition(" #")[0].strip()
    for kind, text in BLOCKS
    if not kind
    for line in text.replace("\\\n", " ").splitlines()
]
NOT_RUN = ("make test", "heroku ", "git push", "API_KEYS=default:", "OPENAI_", "REDIS_URL=redis://")
"""This suite itself; another company's platform; Compose, models and honcho, which other tests run."""


class Project:
    """A copy of the project in which `make run` runs, on a port of its own."""

    def __init__(self, folder: Path):
        names = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in names.stdout.split():
            if name.startswith(("app/", "agents/", "pipelines/", "tools/")) or "/" not in name:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        (folder / ".venv").symlink_to(Path(sys.prefix))
        self.folder, self.port, self.log = folder, free_port(), folder / "run.log"
        plain = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "MAKEFLAGS")}
        self.env = {**plain, "PORT": str(self.port), "WEB_CONCURRENCY": "1"}
        self.running: subprocess.Popen[bytes] | None = None

    def command(self, line: str) -> list[str]:
        # What is installed already is not installed again.
        line = line.replace("make ", "make -o .venv/installed ")
        return ["bash", "-c", line.replace(":8000", f":{self.port}")]

    def sh(self, line: str) -> str:
        run = subprocess.run(
            self.command(line), cwd=self.folder, env=self.env, capture_output=True, text=True
        )
        assert run.returncode == 0, f"{line}\n{run.stdout}\n{run.stderr}"
        return run.stdout

    def launch(self, line: str) -> None:
        self.stop()
        output: IO[bytes] = self.log.open("wb")
        with output:
            self.running = subprocess.Popen(
                self.command(f"exec {line}" if line.startswith("make") else line),
                cwd=self.folder,
                env=self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self.waits_for("ready after")

    def stop(self) -> None:
        if self.running is not None:
            self.running.terminate()
            self.running.wait(60)
            self.running = None

    def waits_for(self, text: str) -> None:
        deadline = time.monotonic() + 90
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def run(self, type: str, target: str, inputs: dict[str, Any]) -> Any:
        url = f"http://localhost:{self.port}/api/v1/executions"
        body = {"type": type, "target_id": target, "inputs": inputs}
        id = requests.post(url, json=body, timeout=60).json()["execution_id"]
        deadline = time.monotonic() + 60
        while (answer := requests.get(f"{url}/{id}", timeout=60).json())["status"] != "completed":
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        return answer["outputs"]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    made.stop()


def test_every_command_of_the_readme_is_known_to_a_test() -> None:
    known = ("make run", "make check", "AUTH=keys make run", "REDIS_URL=... .venv", "curl ")
    assert [line for line in LINES if line and not line.startswith((*known, *NOT_RUN))] == []


def test_the_first_hour_goes_as_the_readme_says(project: Project) -> None:
    project.launch("make run")
    [quick_start] = [text for kind, text in BLOCKS if kind == "python" and "1. Start" in text]
    program = quick_start.replace(":8000", f":{project.port}") + "\nprint(outputs['output'])\n"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "Input text", run.stderr
    assert "pipeline document_summary" in project.sh("make check")
    for name, text in FILES.items():
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / name).write_text(text)
    project.waits_for("reloaded: ")
    deadline = time.monotonic() + 90
    targets = f"http://localhost:{project.port}/api/v1/pipelines/welcome"
    while requests.get(targets, timeout=60).status_code != 200:
        assert time.monotonic() < deadline, project.log.read_text()[-3000:]
        time.sleep(0.2)
    assert project.run("agent", "greeter", {"who": "Ann"})["output"] == "Hello Ann!"
    assert project.run("pipeline", "welcome", {"customer": "Ann"})["short"] == "Hello Ann!"
    for line in re.findall(r"`(\.venv/bin/python -m [^`]*)`", README):
        project.sh(line)


def test_changes_are_heard_of_as_the_readme_says(project: Project) -> None:
    project.launch("make run")
    start, wait, follow, follow_all = [
        line
        for line in LINES
        if line.startswith("curl -i") or "exec_" in line or "v1/events" in line
    ]
    started = project.sh(start)
    assert "HTTP/1.1 200 OK" in started
    assert '"output":"Input"' in started
    [id] = set(re.findall(r"exec_\w+", started))
    assert '"completed"' in project.sh(wait.replace("exec_...", id))
    assert "event: execution.completed" in project.sh(follow.replace("exec_...", id))
    assert "retry:" in project.sh(f"timeout 2 {follow_all} || [ $? = 124 ]")


def test_keys_are_made_and_used_as_the_readme_says(project: Project) -> None:
    project.launch("AUTH=keys make run")
    [url] = re.findall(r"REDIS_URL=(\S+)", project.log.read_text())
    [add] = [line for line in LINES if "flask keys add" in line]
    [use] = [line for line in LINES if line.startswith("curl -H")]
    [key] = re.findall(r"exkey_\w+", project.sh(add.replace("REDIS_URL=...", f"REDIS_URL={url}")))
    answer = project.sh(use.replace("exkey_...", key).replace("curl", "curl --fail -s"))
    assert '"executions": []' in answer
