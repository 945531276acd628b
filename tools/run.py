"""`make run`: an embedded store, and the processes of the Procfile, in the foreground until Ctrl-C.

Like a platform would, it starts a process again that ended by itself. (A process manager such as honcho
ends everything when one ends, and knows nothing of a store that has to outlive the others.)

It also reads `.env` (or what ENV_FILE names): gunicorn and the workers themselves know no file, so one that
lies about on a server changes nothing for them. (The `flask` command reads one, unless FLASK_SKIP_DOTENV=1.)
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

from app.sink import Sink
from tools.embedded_store import EmbeddedStore, StoreError, end_with_parent

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 30.0
SHORT_LIFE_SECONDS = 10.0
SHORT_LIVES_ALLOWED = 3

_stop_requested = False
_out, _err = Sink(1), Sink(2)


@dataclass
class Running:
    """A line of the Procfile, and its process."""

    name: str
    command: str
    process: subprocess.Popen[bytes]
    began_at: float
    short_lives: int = 0


def main() -> int:
    """The exit code: 0 after Ctrl-C or SIGTERM, 1 where something does not start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _request_stop)
    load_dotenv(os.environ.get("ENV_FILE") or ROOT / ".env")  # what is set already wins
    port = os.environ.setdefault("PORT", "8000")
    if reason := _port_is_not_free(port):
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
    running = [Running(name, command, _start(command), time.monotonic()) for name, command in commands.items()]
    _say(
        f"\n  http://localhost:{port}/docs   the API, to try out"
        f"\n  REDIS_URL={os.environ['REDIS_URL'] if '@' not in os.environ['REDIS_URL'] else '(set)'}"
        "\n  Ctrl-C ends everything.\n",
        _out,
    )
    try:
        while not _stop_requested:
            time.sleep(0.1)
            for one in running:
                if one.process.poll() is not None and not _start_again(one):
                    return 1
        return 0
    finally:
        _end([one.process for one in running])


def _start(command: str) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C in the terminal reaches this process alone, which ends the others in order."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.Popen(  # noqa: S602  the Procfile is ours, and its lines are shell commands
        f"exec {command}",
        shell=True,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        start_new_session=True,
        preexec_fn=end_with_parent,
    )


def _start_again(each: Running) -> bool:
    """False where it does not live: what is wrong was said by the process itself."""
    short = time.monotonic() - each.began_at < SHORT_LIFE_SECONDS
    each.short_lives = each.short_lives + 1 if short else 0
    if each.short_lives >= SHORT_LIVES_ALLOWED:
        _say(f"{each.name} ends again and again (exit code {each.process.returncode}); giving up.")
        return False
    _say(f"{each.name} ended (exit code {each.process.returncode}); starting it again.")
    time.sleep(each.short_lives * 0.5)
    each.process, each.began_at = _start(each.command), time.monotonic()
    return True


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to all at once; SIGKILL, for their whole groups, to what is still there after thirty seconds."""
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
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(("#", "release:")))
    return {name.strip(): command.strip() for name, command in pairs}


def _port_is_not_free(port: str) -> str | None:
    if not port.isdigit() or not 0 < int(port) < 65536:
        return f"PORT is {port!r}; it must be a number from 1 to 65535."
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError as error:
            return f"Port {port} can not be used ({error.strerror}). Choose another: PORT=8001 make run"
    return None


def _say(text: str, sink: Sink = _err) -> None:
    """Waits for no terminal: one that is stopped with Ctrl-S must not keep this process from Ctrl-C."""
    sink.write(f"{text}\n".encode(errors="backslashreplace"))


def _request_stop(*_: object) -> None:
    global _stop_requested
    _stop_requested = True


if __name__ == "__main__":
    sys.exit(main())
