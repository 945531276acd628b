"""Starts, talks to, listens to and kills one child process. Used by `supervisor` and `pool`.

This is the worker's side; what runs inside the child is in `child`.
"""

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
from app.worker.liveness import Liveness

if TYPE_CHECKING:
    from app.worker.attempt import Attempt

READ_BYTES = 256 * 1024

MAX_CHECK_SECONDS = 1.0
"""The most that one check counts as silence: see `liveness`."""

REAP_TRIES = 100
REAP_PAUSE_SECONDS = 0.01

LAST_MESSAGES_SECONDS = 0.5
"""How long messages of a dead child may still be on their way."""

CLOSING_SECONDS = 0.1
"""How long a child that closed its socket may take to exit by itself."""

OnMessage = Callable[[protocol.Head, bytes], None]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

log = structlog.get_logger(__name__)


class ChildProcess:
    """The attempts in one child, and what is known about the child.

    `attempts`, `final_outcomes` and `to_abandon` are keyed by the attempts' wire keys.
    `final_outcomes` come into force when the child is dead. `to_abandon` has, for each attempt that
    is to be given up, the number of the question that the child must answer first. `pid` is the
    keeper, `flows_pid` the process that runs flows: see `forkserver`. `stuck_threads` counts
    abandoned runs, which hold a slot each; `leaked_threads` are threads that outlived their runs.
    `retiring`: it gets nothing new. `full`: the same, for a moment.
    """

    def __init__(self, forkserver: Forkserver, pid: int, exited: int, streams: Streams, slots: int):
        self.pid, self.slots = pid, slots
        self._forkserver, self._exited_fd = forkserver, exited
        self._reader, self._writer = streams
        self._exit_code: int | None = None
        self.attempts: dict[str, Attempt] = {}
        self.final_outcomes: dict[str, tuple[Outcome, str | None]] = {}
        self.to_abandon: dict[str, int] = {}
        self.liveness = Liveness(MAX_CHECK_SECONDS)
        self.flows_pid = 0
        self.stacks_fd = 0
        self._flows_fd = -1
        self.runs = 0
        self.stuck_threads = 0
        self.leaked_threads = 0
        self.ready = False
        self.retiring = False
        self.gone = False
        self.killed = False
        self.full = False
        self.is_extra = False
        """Whether it was started for one attempt, beside the others."""

    @classmethod
    async def start(cls, forkserver: Forkserver, config: ChildConfig) -> ChildProcess:
        """Starts a child. It is not ready yet when this returns. Raises `CannotFork`."""
        try:
            os.getcwd()  # flows start in this folder, and each would fail in its own way without it
            ours, theirs = socket.socketpair()
        except FileNotFoundError as error:
            raise CannotFork(
                "The folder in which this worker was started no longer exists. Restart the worker."
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
            ours.close()  # the child notices, and ends itself
            if exited >= 0:
                os.close(exited)
            forkserver.children.discard(pid)
            raise CannotFork(str(error)) from error
        return cls(forkserver, pid, exited, streams, config.slots)

    def begin(self, flows_pid: int, stacks_fd: int) -> None:
        """Marks it as ready. Both numbers come from the child: the process that runs flows, and the
        descriptor, there, of the file to which its threads write their stacks.
        """
        self.flows_pid, self.stacks_fd, self.ready = flows_pid, stacks_fd, True
        # OSError: no file can be opened at the moment, or the process is gone already.
        with contextlib.suppress(OSError):
            self._flows_fd = os.pidfd_open(flows_pid)

    @property
    def free_slots(self) -> int:
        if self.retiring or self.gone or self.full or not self.ready or self.liveness.is_quiet:
            return 0
        return self.slots - len(self.attempts) - self.stuck_threads

    @property
    def run_count(self) -> int:
        """How many runs its threads may belong to, those included that were given up."""
        return len(self.attempts) + self.stuck_threads + self.leaked_threads

    async def listen(self, on_message: OnMessage) -> None:
        """Calls `on_message` for every message. Returns when the child is dead, and with it every
        process of its group. To be called once.
        """
        reading = asyncio.ensure_future(self._read(on_message))
        exiting = asyncio.ensure_future(self._exit())
        try:
            await asyncio.wait({reading, exiting}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({exiting}, timeout=CLOSING_SECONDS)
            if not exiting.done():
                # It closed its socket or sent nonsense: there is no way to talk to it any more.
                self.kill()
            await exiting
            await asyncio.wait({reading}, timeout=LAST_MESSAGES_SECONDS)
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
                self.liveness.note_answer()
                messages.feed(data)
                while message := messages.take():
                    on_message(*message)
        except OSError:
            return  # the child is gone
        except Exception:
            # After bytes that are no message, nobody knows where the next message begins.
            log.exception("child_unreadable", pid=self.pid)

    async def _exit(self) -> None:
        await _ended(self._exited_fd)
        # The group may outlive its leader. Until the leader is reaped, its number cannot be given
        # to another process, so this signal reaches the right group.
        self._signal_group(signal.SIGKILL)
        if self._flows_fd >= 0:
            # The keeper may die first. Until the other process is dead, too, the run is not over.
            await _ended(self._flows_fd)
        # A child that dies at once may do so before the kernel has made it this process's child.
        for _ in range(REAP_TRIES):
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self._exit_code = os.waitstatus_to_exitcode(status)
                    return
            await asyncio.sleep(REAP_PAUSE_SECONDS)

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        """Sends a message. Never blocks and never fails: `listen` notices a child that is gone."""
        self.send_message(protocol.encode(head, body))

    def send_message(self, message: bytes) -> None:
        """Does what `send` does, with an encoded message."""
        if not self._writer.transport.is_closing():
            self._writer.write(message)

    def ask(self) -> int:
        """Asks for a sign of life. Returns the number of the question, which the answer repeats."""
        number = self.liveness.ask()
        self.send({"kind": "alive", "number": number})
        return number

    def kill(self) -> None:
        """Kills the process, and what its flow has started in its process group.

        A process that has left the group is adopted by the worker, and `orphans` ends it.
        """
        if self.gone or self._exit_code is not None:
            return  # its number may belong to another process by now
        self.killed = True
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the child and to the process group that it leads."""
        if not self.gone and self._exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            self._signal_group(number)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def death(self) -> str:
        """Returns how the process ended, as a sentence for the user whose execution it ran."""
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
