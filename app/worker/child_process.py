"""One child process, as its worker sees it: started, spoken to, listened to, killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from app.worker import protocol
from app.worker.child import ChildConfig
from app.worker.ending import Outcome
from app.worker.forkserver import CannotFork, Forkserver
from app.worker.pulse import Pulse

if TYPE_CHECKING:
    from app.worker.attempt import Attempt

READ_BYTES = 256 * 1024

LONGEST_LOOK_SECONDS = 1.0
"""Twice the time between two looks at a child's pulse."""

REAP_TRIES, REAP_PAUSE_SECONDS = 100, 0.01

OnMessage = Callable[[protocol.Head, bytes], None]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

log = structlog.get_logger(__name__)


class ChildProcess:
    """`attempts` and `final` are by the attempts' wire keys; `final` has outcomes that are true
    once it is dead.

    `ending` has the attempts that are to be given up, each with the question that the child must
    answer first. `flows_pid` is the process that runs flows, whose keeper `pid` is: see
    `forkserver`. `stuck` counts slots that are held by runs which do not end, `leaked` the threads
    that outlived their runs.
    """

    def __init__(self, forkserver: Forkserver, pid: int, exited: int, streams: Streams, slots: int):
        self.pid, self.slots = pid, slots
        self._forkserver, self._exited_fd = forkserver, exited
        self._reader, self._writer = streams
        self._exit_code: int | None = None
        self.attempts: dict[str, Attempt] = {}
        self.final: dict[str, tuple[Outcome, str | None]] = {}
        self.ending: dict[str, int] = {}
        self.pulse = Pulse(LONGEST_LOOK_SECONDS)
        self.flows_pid = self.stacks_fd = 0
        self._flows_fd = -1
        self.runs = self.stuck = self.leaked = 0
        self.ready = self.retiring = self.gone = self.killed = self.full = False
        self.is_extra = False
        """Whether it was started for one attempt, beside the others."""

    @classmethod
    async def start(cls, forkserver: Forkserver, config: ChildConfig) -> ChildProcess:
        """A child that was born, but is not ready yet. Raises `CannotFork`."""
        try:
            os.getcwd()
            ours, theirs = socket.socketpair()
        except FileNotFoundError as error:
            raise CannotFork(
                "The folder that this worker was started in is gone: start the worker again."
            ) from error
        except OSError as error:
            raise CannotFork(str(error)) from error
        with theirs:
            try:
                pid = await forkserver.fork(theirs, config)
            except BaseException:
                ours.close()
                raise
        exited = -1
        try:
            exited = os.pidfd_open(pid)
            streams = await asyncio.open_connection(sock=ours, limit=READ_BYTES)
        except OSError as error:
            ours.close()  # the child hears that, and ends
            if exited >= 0:
                os.close(exited)
            forkserver.children.discard(pid)
            raise CannotFork(str(error)) from error
        return cls(forkserver, pid, exited, streams, config.slots)

    def begin(self, flows_pid: int, stacks_fd: int) -> None:
        """It is ready, and says which process runs flows, and which of its files has the stacks of
        its threads.
        """
        self.flows_pid, self.stacks_fd, self.ready = flows_pid, stacks_fd, True
        with contextlib.suppress(OSError):  # no file can be opened just now, or it is gone already
            self._flows_fd = os.pidfd_open(flows_pid)

    @property
    def free_slots(self) -> int:
        if self.retiring or self.gone or self.full or not self.ready or self.pulse.is_quiet:
            return 0
        return self.slots - len(self.attempts) - self.stuck

    async def listen(self, on_message: OnMessage) -> None:
        """Hands on every message until the child is gone, and what it has started with it. Call it
        once.
        """
        reading = asyncio.ensure_future(self._read(on_message))
        exiting = asyncio.ensure_future(self._exit())
        try:
            await asyncio.wait({reading, exiting}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({exiting}, timeout=0.1)
            if not exiting.done():
                # a child that closed its socket, or makes no sense, cannot be talked to any more
                self.kill()
            await exiting
            await asyncio.wait({reading}, timeout=0.5)  # what it said last may still be on its way
        finally:
            self.gone = True
            reading.cancel()
            exiting.cancel()
            self._writer.transport.abort()
            os.close(self._exited_fd)
            if self._flows_fd >= 0:
                os.close(self._flows_fd)
            self._forkserver.children.discard(self.pid)

    async def _read(self, on_message: OnMessage) -> None:
        messages = protocol.Messages()
        try:
            while data := await self._reader.read(READ_BYTES):
                self.pulse.heard()
                messages.feed(data)
                while message := messages.take():
                    on_message(*message)
        except OSError:
            return  # it is gone
        except Exception:
            log.exception("child_unreadable", pid=self.pid)  # what is no message ends the talk

    async def _exit(self) -> None:
        await _ended(self._exited_fd)
        # The group may outlive its leader; before that is reaped, its number is not yet somebody
        # else's.
        self._signal_group(signal.SIGKILL)
        if self._flows_fd >= 0:
            await _ended(
                self._flows_fd
            )  # its keeper may die first: until it is dead too, the run is not over
        for _ in range(REAP_TRIES):  # it may have died before the kernel made it ours
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self._exit_code = os.waitstatus_to_exitcode(status)
                    return
            await asyncio.sleep(REAP_PAUSE_SECONDS)

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        """Never blocks and never fails: that the child is gone is noticed elsewhere."""
        self.send_message(protocol.encode(head, body))

    def send_message(self, message: bytes) -> None:
        """The same with what is encoded already."""
        if not self._writer.transport.is_closing():
            self._writer.write(message)

    def ask(self) -> int:
        """Asks for a sign of life; the number of the question, which the child answers with."""
        number = self.pulse.ask()
        self.send({"kind": "alive", "number": number})
        return number

    def kill(self) -> None:
        """Ends the process, and what its flow has started in its session, without asking.

        What has left the session becomes this process's child, and `strays` ends it.
        """
        if self.gone or self._exit_code is not None:
            return  # its number may be somebody else's by now
        self.killed = True
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """To the child and all in its process group, which it leads."""
        if not self.gone and self._exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            self._signal_group(number)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def death(self) -> str:
        """How the process ended, in a sentence for the user whose execution it ran."""
        code = self._exit_code
        if code is not None and code < 0:
            hint = " It may have run out of memory." if code == -signal.SIGKILL else ""
            return f"The process that ran it was ended by {signal.Signals(-code).name}.{hint}"
        return f"The process that ran it ended with exit code {code} in the middle of the run."


async def _ended(pidfd: int) -> None:
    """Returns when the process is dead."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
