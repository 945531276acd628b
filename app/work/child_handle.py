"""One child process, as its worker sees it, and the fork server that all of them come from."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing import forkserver

import psutil

from app.work import child as child_module
from app.work import protocol
from app.work.attempt import Attempt
from app.work.child import ChildConfig, adopt_orphans, kill_process

OnMessage = Callable[["ChildHandle", protocol.Head, bytes], None]

_helpers: set[int] = set()
"""The processes that `multiprocessing` runs for us. Any other child of the worker is a stray."""


def start_fork_server(preload: list[str]) -> None:
    """Starts the process that children are forked from, with these modules imported once for all of them.

    The worker itself is not forked: it has connections and an event loop that must not cross a fork.
    """
    adopt_orphans()
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    ensure_fork_server()


def ensure_fork_server() -> None:
    """Starts it again where it died; it outlives a SIGTERM that is sent to every process."""
    before = {each.pid for each in psutil.Process().children()}
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which is inherited
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGTERM, previous)
    _helpers.update({each.pid for each in psutil.Process().children()} - before)


class ChildHandle:
    """One child process, as its worker sees it."""

    def __init__(self, config: ChildConfig):
        ours, theirs = socket.socketpair()
        context = multiprocessing.get_context("forkserver")
        self.process = context.Process(target=child_module.main, args=(theirs, config))
        self.process.start()
        theirs.close()
        self.slots = config.slots
        self.attempts: dict[str, Attempt] = {}
        self.last_words: dict[str, tuple[protocol.Head, bytes]] = {}
        """Of attempts that are over once this process is dead."""
        self.runs = 0
        self.hung = 0
        self.ready = self.retiring = self.gone = self.killed = False
        self._socket = ours
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def free_slots(self) -> int:
        return 0 if self.retiring or self.gone or not self.ready else self.slots - len(self.attempts) - self.hung

    async def listen(self, on_message: OnMessage) -> None:
        """Hands on every message, until the child is gone."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=2**20)
        exited = asyncio.ensure_future(self._exited())
        reading = asyncio.ensure_future(self._read(reader, on_message))
        try:
            await asyncio.wait({exited})
            await asyncio.wait({reading}, timeout=0.5)  # what it said last may still be on its way
        finally:
            self.gone = True
            exited.cancel()
            reading.cancel()
            self._writer.close()

    async def _read(self, reader: asyncio.StreamReader, on_message: OnMessage) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                on_message(self, *await protocol.receive(reader))
        self.kill()  # a child that closed its socket can not be talked to any more

    async def _exited(self) -> None:
        loop, exited = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.process.sentinel, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(self.process.sentinel)
        self.process.join()

    def send(self, head: protocol.Head, body: bytes = b"") -> None:
        """Never blocks and never fails: that the child is gone is noticed elsewhere."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(protocol.encode(head, body))

    def kill(self) -> None:
        """Ends the process and whatever its flow has started, without asking."""
        if not self.gone and self.process.exitcode is None:
            with contextlib.suppress(psutil.Error):
                for each in psutil.Process(self.pid).children(recursive=True):
                    kill_process(each)
            self.killed = True
            self.process.kill()

    def send_signal(self, number: signal.Signals) -> None:
        if not self.gone and self.process.exitcode is None:
            os.kill(self.pid, number)

    def death(self) -> str:
        """How the process ended, in a sentence for the user whose execution it ran."""
        code = self.process.exitcode
        if code is not None and code < 0:
            hint = " It may have run out of memory." if code == -signal.SIGKILL else ""
            return f"The process that ran it was ended by {signal.Signals(-code).name}.{hint}"
        return f"The process that ran it ended with exit code {code} in the middle of the run."


def end_strays() -> None:
    """Ends what the flows of a child that died have left behind: this process has adopted it."""
    for stray in psutil.Process().children():
        if stray.pid not in _helpers:
            for each in (*stray.children(recursive=True), stray):
                kill_process(each)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray.pid, 0)
