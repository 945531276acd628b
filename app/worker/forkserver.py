"""Forks child processes for the worker. `main` starts it, `child_process` asks it for children.

The forkserver is a process that has imported everything and does nothing but fork. It is forked
from the worker before the worker has connections or an event loop, which must not cross a fork.
All children share its memory.

A child is forked twice, so that it becomes the worker's own child: the worker sees how it ends, and
the kernel kills it, even a frozen one, when the worker dies. (The standard library's forkserver
gives neither, because its children belong to the server.)

A child is two processes. The one that runs flows has a parent of its own, the keeper, which waits
for its end and logs what it writes: a flow that kills or stops its parent hurts the keeper, not the
worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pickle
import resource
import signal
import socket
import struct
import time
from typing import NoReturn

from app.process.prctl import die_with_parent, set_name
from app.worker import child as child_module
from app.worker.child import ChildConfig
from app.worker.output_pipes import OutputPipes

FORK_SECONDS = 10.0
"""A forkserver that has not answered by then is replaced."""

ADOPTION_SECONDS = 5.0
"""How long a new child waits until the kernel has made it the worker's child."""

_LENGTH = struct.Struct("!I")
_ANSWER = struct.Struct("!i")
"""A child's pid or, below zero, the number of an error."""


class CannotFork(Exception):
    """No child could be started, for example because a limit of the machine is reached. Another try
    may succeed.
    """


class Forkserver:
    """The worker's side. One for all pools of a worker process. `children` are the pids of the
    living children: `fork` adds them, `child_process` removes them.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.children: set[int] = set()
        self._control: socket.socket | None = None
        self._asking = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether a child may exist whose pid is not known yet."""
        return self._asking.locked()

    def start(self) -> None:
        """Forks the forkserver. To be called before the worker opens anything; `fork` calls it
        again if it has died. Raises `OSError`.
        """
        self._stop()
        ours, theirs = socket.socketpair()
        worker = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not pid:
            _serve(theirs, worker)
        theirs.close()
        ours.setblocking(False)
        self.pid, self._control = pid, ours

    async def fork(self, end: socket.socket, config: ChildConfig) -> int:
        """Returns the pid of a new child, which owns the socket `end`. Raises `CannotFork`."""
        async with self._asking:
            try:
                if self._control is None:
                    self.start()
                async with asyncio.timeout(FORK_SECONDS):
                    pid = await self._ask(end, config)
            except (OSError, EOFError) as error:  # TimeoutError is an OSError, too
                # A late answer must not be taken for the answer to the next request.
                self._stop()
                raise CannotFork(f"The forkserver does not answer: {error!r}") from error
            if pid < 0:
                raise CannotFork(os.strerror(-pid))
            self.children.add(pid)
            return pid

    async def _ask(self, end: socket.socket, config: ChildConfig) -> int:
        assert self._control is not None
        loop, message = asyncio.get_running_loop(), pickle.dumps(config)
        socket.send_fds(self._control, [_LENGTH.pack(len(message))], [end.fileno()])
        await loop.sock_sendall(self._control, message)
        answer = b""
        while len(answer) < _ANSWER.size:
            part = await loop.sock_recv(self._control, _ANSWER.size - len(answer))
            if not part:
                raise EOFError
            answer += part
        return int(_ANSWER.unpack(answer)[0])

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.pid = 0  # from now on it is an orphan: `orphans` reaps it


def _serve(control: socket.socket, worker: int) -> NoReturn:
    """Runs in the forkserver. Never returns, and so never touches what it inherited."""
    asyncio._set_running_loop(None)  # a forkserver that is started later inherits a running loop
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the worker's business
    _close_all_but(control.fileno())
    die_with_parent(worker)
    set_name("exec-forkserver")
    try:
        while True:
            head, [end], _, _ = socket.recv_fds(control, _LENGTH.size, 1)
            config: ChildConfig = pickle.loads(_exactly(control, _LENGTH.unpack(head)[0]))  # noqa: S301  our worker's
            _fork_twice(control, socket.socket(fileno=end), config, worker)
    finally:
        os._exit(0)


def _fork_twice(
    control: socket.socket, end: socket.socket, config: ChildConfig, worker: int
) -> None:
    """Forks a process that forks the child and exits: the orphaned child goes to the worker.

    Answers with the child's pid or, if a fork fails, with the error's number below zero.
    """
    between = _fork(control)
    if between:
        end.close()
        if between > 0:
            os.waitpid(between, 0)
        return
    child = _fork(control)
    if child:
        if child > 0:
            control.sendall(_ANSWER.pack(child))
        os._exit(0)
    set_name("exec-keeper")
    control.close()
    try:
        _wait_for_adoption(worker)
        _keep(end, config, worker)
    finally:
        os._exit(1)


def _keep(end: socket.socket, config: ChildConfig, worker: int) -> NoReturn:
    """Runs in the keeper: forks the process that runs flows, logs what is written to its
    descriptors until it ends, and ends as it did.
    """
    # A session and process group of their own: a `kill 0` in a flow's script reaches only these
    # processes and what they have started, not the worker.
    die_with_parent(worker)
    os.setsid()
    keeper, output = os.getpid(), OutputPipes()
    flows = os.fork()
    if not flows:
        set_name("exec-flows")
        child_module.main(end, config, keeper, output)
    end.close()
    code = os.waitstatus_to_exitcode(output.follow(flows))
    if code < 0:
        resource.setrlimit(
            resource.RLIMIT_CORE, (0, 0)
        )  # the other process has dumped its core already
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(keeper, -code)
    os._exit(max(code, 1) if code < 0 else code)


def _fork(control: socket.socket) -> int:
    """Forks as `os.fork` does. If that fails, answers the worker and returns a negative number."""
    try:
        return os.fork()
    except OSError as error:
        number = error.errno or errno.EAGAIN
        control.sendall(_ANSWER.pack(-number))
        return -number


def _wait_for_adoption(worker: int) -> None:
    deadline = time.monotonic() + ADOPTION_SECONDS
    while os.getppid() != worker:
        if time.monotonic() > deadline:
            os._exit(1)  # the worker is gone
        time.sleep(0.0002)


def _close_all_but(number: int) -> None:
    """Closes what was inherited: connections of the worker must not stay open after its death."""
    os.closerange(3, number)
    os.closerange(number + 1, os.sysconf("SC_OPEN_MAX"))
    # No flow may read what is typed into the worker's terminal.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
