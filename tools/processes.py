"""Starts the processes of the Procfile for `make run`, starts them again, and ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.process.prctl import end_with_parent

ROOT = Path(__file__).resolve().parent.parent

SHORT_LIFE_SECONDS = 10.0
SHORT_LIVES_ALLOWED = 3
"""A process that ends this often in a row, each time this soon, has a mistake in its settings."""

GONE_SECONDS = 2.0
"""The wait for killed processes: the kernel needs a moment, above all for a large one."""


@dataclass
class Running:
    """A line of the Procfile, and its process."""

    name: str
    command: str
    process: subprocess.Popen[bytes]
    began_at: float
    short_lives: int = 0

    @classmethod
    def start(cls, name: str, command: str) -> Running:
        return cls(name, command, _start(command), time.monotonic())

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def start_again(self) -> str | None:
        """Returns why not: it ended too soon, too often. It has printed the reason itself."""
        short = time.monotonic() - self.began_at < SHORT_LIFE_SECONDS
        self.short_lives = self.short_lives + 1 if short else 0
        if self.short_lives >= SHORT_LIVES_ALLOWED:
            code = self.process.returncode
            return f"{self.name} ended {self.short_lives} times in a row (exit code {code})."
        time.sleep(self.short_lives * 0.5)
        self.process = _start(self.command)
        self.began_at = time.monotonic()
        return None

    def children(self) -> set[int]:
        """The ids of all processes below this one."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return set()
        return {process.pid for process in found}


def commands() -> dict[str, str]:
    """The lines of the Procfile by name, without `release`: a platform runs that one by itself."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    pairs = (
        line.split(":", 1)
        for line in lines
        if ":" in line and not line.startswith(("#", "release:"))
    )
    return {name.strip(): command.strip() for name, command in pairs}


def check_entrypoints() -> subprocess.Popen[bytes]:
    """Imports all flows beside the service, and prints what fails: before an execution does."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.catalog", "check", "--entrypoints"],
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=_beside,
    )


def terminate(all_running: list[Running]) -> None:
    """Asks all processes to end in order."""
    for running in all_running:
        if not running.has_ended():
            running.process.terminate()


def kill(all_running: list[Running]) -> None:
    """Ends all processes at once, with everything that runs below them."""
    # Collected first: what loses its parent is not found below it any more.
    below = [psutil.Process(pid) for one in all_running for pid in _existing(one.children())]
    for running in all_running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for running in all_running:
        running.process.wait()
    psutil.wait_procs(below, timeout=GONE_SECONDS)


def _existing(pids: set[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid)]


def _start(command: str) -> subprocess.Popen[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.Popen(  # noqa: S602  the Procfile is ours, and its lines are shell commands
        f"exec {command}",  # `exec`: signals reach the program itself, with no shell in between
        shell=True,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        start_new_session=True,  # Ctrl-C reaches only this process, which ends the others in order
        preexec_fn=_prepare,
    )


def _beside() -> None:
    end_with_parent()
    os.nice(10)  # the service goes first


def _prepare() -> None:
    end_with_parent()
    # SIGHUP asks for a reload. A process that has no handler yet has loaded nothing, so it may
    # ignore the signal; by default it would end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
