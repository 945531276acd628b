"""Where child processes come from: a process that has imported everything, and does nothing but fork.

It is forked from the worker before that has connections or an event loop, which must not cross a fork, and so
shares its memory, as each child does. A child is forked twice, and thereby becomes the worker's own: the
worker sees how it ends, and when the worker dies, the kernel ends it, be it frozen or not.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import signal
import socket
import struct
import time
from typing import NoReturn

from app.work import child as child_module
from app.work.child import ChildConfig, die_with_parent

ADOPTION_SECONDS = 5.0

_PR_SET_NAME = 15
_LENGTH, _PID = struct.Struct("!I"), struct.Struct("!i")


class Zygote:
    """One for all pools of a worker's process."""

    def __init__(self) -> None:
        self.pid = 0
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Forks it. Called before anything is opened; again only where it has died."""
        if self._control is not None:
            self._control.close()
            os.waitpid(self.pid, 0)
        ours, theirs = socket.socketpair()
        worker = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            _serve(theirs, worker)
        theirs.close()
        self._control = ours

    def fork(self, end: socket.socket, config: ChildConfig) -> int:
        """The pid of a new child, which talks to its worker by the other end of `end`."""
        try:
            return self._ask(end, config)
        except (OSError, EOFError):
            self.start()  # something has ended it
            return self._ask(end, config)

    def _ask(self, end: socket.socket, config: ChildConfig) -> int:
        assert self._control is not None
        message = pickle.dumps(config)
        socket.send_fds(self._control, [_LENGTH.pack(len(message))], [end.fileno()])
        self._control.sendall(message)
        return int(_PID.unpack(_exactly(self._control, _PID.size))[0])


def _serve(control: socket.socket, worker: int) -> NoReturn:
    """The zygote's life: never returns, and so never touches what it has inherited."""
    asyncio._set_running_loop(None)  # where it is forked again, the worker's loop is running
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the worker's business
    _close_all_but(control.fileno())
    die_with_parent(worker)
    name_process("exec-zygote")
    try:
        while True:
            head, [end], _, _ = socket.recv_fds(control, _LENGTH.size, 1)
            config: ChildConfig = pickle.loads(_exactly(control, _LENGTH.unpack(head)[0]))  # noqa: S301  our worker's
            _fork_twice(control, socket.socket(fileno=end), config, worker)
    finally:
        os._exit(0)


def _fork_twice(control: socket.socket, end: socket.socket, config: ChildConfig, worker: int) -> None:
    between = os.fork()
    if between:
        end.close()
        os.waitpid(between, 0)
        return
    child = os.fork()
    if child:
        control.sendall(_PID.pack(child))
        os._exit(0)
    control.close()
    try:
        _wait_for_adoption(worker)
        name_process("exec-flows")
        child_module.main(end, config, worker)
    finally:
        os._exit(1)


def _wait_for_adoption(worker: int) -> None:
    deadline = time.monotonic() + ADOPTION_SECONDS
    while os.getppid() != worker:
        if time.monotonic() > deadline:
            os._exit(1)  # the worker is gone
        time.sleep(0.0002)


def _close_all_but(number: int) -> None:
    """Connections of the worker must not stay open here when it has gone."""
    os.closerange(3, number)
    os.closerange(number + 1, os.sysconf("SC_OPEN_MAX"))
    os.dup2(nothing := os.open(os.devnull, os.O_RDONLY), 0)  # no flow reads what is typed at the worker
    os.close(nothing)


def name_process(name: str) -> None:
    """As `ps` and `top` show it; 15 bytes at most."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
