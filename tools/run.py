"""`make run`: runs an embedded store and the processes of the Procfile until Ctrl-C.

A process that ends by itself is started again, as a platform would do. (A process manager such as
honcho ends everything when one process ends, and has no place for a store that outlives the
others.)

It also loads `.env`, or the file that ENV_FILE names. gunicorn and the workers read no file, so a
`.env` that was left on a server changes nothing there. (The `flask` command reads one too, unless
FLASK_SKIP_DOTENV=1.)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dotenv import load_dotenv

from app.process.prctl import end_with_parent
from app.telemetry.sink import Sink
from tools.embedded_store import EmbeddedStore, StoreError

ROOT = Path(__file__).resolve().parent.parent

STOP_SECONDS = 30.0
"""Longer than the default of SHUTDOWN_GRACE (20), so that the worker can hand back what it runs."""

SHORT_LIFE_SECONDS = 10.0
SHORT_LIVES_ALLOWED = 3
"""A process that ends this often in a row, each time this soon, has a mistake in its settings."""

_stop_requested = False
_out = Sink(1)
_err = Sink(2)


@dataclass
class Running:
    """A line of the Procfile, and its process."""

    name: str
    command: str
    process: subprocess.Popen[bytes]
    began_at: float
    short_lives: int = 0


def main() -> int:
    """Returns the exit code: 0 after Ctrl-C or SIGTERM, 1 if something does not start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _request_stop)
    load_dotenv(os.environ.get("ENV_FILE") or ROOT / ".env")  # existing variables win
    port = os.environ.setdefault("PORT", "8000")
    if reason := _port_problem(port):
        _say(reason)
        return 1
    store = None
    if not os.environ.get("REDIS_URL"):
        store = EmbeddedStore(Path(os.environ.get("DATA_DIR") or ROOT / ".data"))
        try:
            store.start()
        except StoreError as error:
            _say(str(error))
            return 1
        os.environ["REDIS_URL"] = store.url
    try:
        return _run(_procfile(), port)
    finally:
        if store is not None:
            store.stop()


def _run(commands: dict[str, str], port: str) -> int:
    running = [
        Running(name, command, _start(command), time.monotonic())
        for name, command in commands.items()
    ]
    checking = _check_entrypoints()
    url = os.environ["REDIS_URL"]
    _say(
        f"\n  http://localhost:{port}/docs   the API, to try it out"
        f"\n  REDIS_URL={url if '@' not in url else '(set)'}"  # a password stands before the @
        "\n  Press Ctrl-C to stop everything.\n",
        _out,
    )
    try:
        while not _stop_requested:
            time.sleep(0.1)
            for child in running:
                if child.process.poll() is not None and not _start_again(child):
                    return 1
        return 0
    finally:
        _end([checking, *(child.process for child in running)])


def _start(command: str) -> subprocess.Popen[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.Popen(  # noqa: S602  the Procfile is ours, and its lines are shell commands
        f"exec {command}",  # `exec`: signals reach the program itself, with no shell in between
        shell=True,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        start_new_session=True,  # Ctrl-C reaches only this process, which ends the others in order
        preexec_fn=end_with_parent,
    )


def _check_entrypoints() -> subprocess.Popen[bytes]:
    """Imports all flows beside the service, and prints what fails: before an execution does."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.catalog", "check", "--entrypoints"],
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=_beside,
    )


def _beside() -> None:
    end_with_parent()
    os.nice(10)  # the service goes first


def _start_again(ended: Running) -> bool:
    """Returns False if the process ended too soon, too often. It has printed the reason itself."""
    short = time.monotonic() - ended.began_at < SHORT_LIFE_SECONDS
    ended.short_lives = ended.short_lives + 1 if short else 0
    code = ended.process.returncode
    if ended.short_lives >= SHORT_LIVES_ALLOWED:
        _say(f"{ended.name} ended {ended.short_lives} times in a row (exit code {code}). Stopping.")
        return False
    _say(f"{ended.name} ended (exit code {code}). Starting it again.")
    time.sleep(ended.short_lives * 0.5)
    ended.process = _start(ended.command)
    ended.began_at = time.monotonic()
    return True


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Sends SIGTERM to all processes at once, and after `STOP_SECONDS` SIGKILL to their groups."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text().splitlines()
    # `release` is no process: a platform runs it once before a new version goes out.
    pairs = (
        line.split(":", 1)
        for line in lines
        if ":" in line and not line.startswith(("#", "release:"))
    )
    return {name.strip(): command.strip() for name, command in pairs}


def _port_problem(port: str) -> str | None:
    if not port.isdigit() or not 0 < int(port) < 65536:
        return f"PORT must be a number from 1 to 65535, not {port!r}."
    with socket.socket() as probe:
        # As gunicorn does: connections that have just ended must not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError as error:
            return (
                f"Port {port} cannot be used ({error.strerror}). "
                "Choose another one: PORT=8001 make run"
            )
    return None


def _say(text: str, sink: Sink = _err) -> None:
    # Through a sink: a terminal that was stopped with Ctrl-S must not keep Ctrl-C from working.
    sink.write(f"{text}\n".encode(errors="backslashreplace"))


def _request_stop(*_: object) -> None:
    global _stop_requested
    _stop_requested = True


if __name__ == "__main__":
    sys.exit(main())
