"""One child process, as its worker sees it, and how what it leaves behind is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

import psutil

from app.work import protocol
from app.work.attempt import Attempt
from app.work.child import ChildConfig
from app.work.cleanup import kill_process
from app.work.zygote import Zygote

OnMessage = Callable[["ChildHandle", protocol.Head, bytes], None]

zygote = Zygote()

_known: set[int] = set()
"""The children that run flows. Any other child of the worker, but the zygote, is a stray."""


class ChildHandle:
    """One child process, as its worker sees it."""

    def __init__(self, config: ChildConfig):
        ours, theirs = socket.socketpair()
        self.pid = zygote.fork(theirs, config)
        theirs.close()
        _known.add(self.pid)
        self._exit_code: int | None = None
        self.slots = config.slots
        self.attempts: dict[str, Attempt] = {}
        self.last_words: dict[str, tuple[protocol.Head, bytes]] = {}
        """Of attempts that are over once this process is dead."""
        self.runs = 0
        self.hung = 0
        """Slots that are held by runs which do not end."""
        self.left_behind = 0
        """Steps that outlived their runs, since it was born; some of them may have ended."""
        self.ready = self.retiring = self.gone = self.killed = False
        self._socket = ours
        self._transport: asyncio.Transport | None = None

    @property
    def free_slots(self) -> int:
        return 0 if self.retiring or self.gone or not self.ready else self.slots - len(self.attempts) - self.hung

    async def listen(self, on_message: OnMessage) -> None:
        """Hands on every message, until the child is gone."""
        hearing = _Hearing(lambda head, body: on_message(self, head, body))
        self._transport, _ = await asyncio.get_running_loop().create_connection(lambda: hearing, sock=self._socket)
        exited = asyncio.ensure_future(self._exited())
        try:
            await asyncio.wait({exited, hearing.ended}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({exited}, timeout=0.1)
            if not exited.done():
                self.kill()  # a child that closed its socket can not be talked to any more
            await exited
            await asyncio.wait({hearing.ended}, timeout=0.5)  # what it said last may still be on its way
        finally:
            self.gone = True
            exited.cancel()
            self._transport.abort()

    async def _exited(self) -> None:
        loop, exited = asyncio.get_running_loop(), asyncio.Event()
        process = os.pidfd_open(self.pid)
        loop.add_reader(process, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(process)
            os.close(process)
        while self._exit_code is None:
            try:
                self._exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                await asyncio.sleep(0.001)  # it died before it was ours
        _known.discard(self.pid)

    def send(self, head: protocol.Head, body: bytes = b"") -> None:
        """Never blocks and never fails: that the child is gone is noticed elsewhere."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(protocol.encode(head, body))

    def kill(self) -> None:
        """Ends the process and whatever its flow has started, without asking."""
        if not self.gone and self._exit_code is None:
            with contextlib.suppress(psutil.Error):
                for each in psutil.Process(self.pid).children(recursive=True):
                    kill_process(each)
            self.killed = True
            os.kill(self.pid, signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        if not self.gone and self._exit_code is None:
            os.kill(self.pid, number)

    def death(self) -> str:
        """How the process ended, in a sentence for the user whose execution it ran."""
        code = self._exit_code
        if code is not None and code < 0:
            hint = " It may have run out of memory." if code == -signal.SIGKILL else ""
            return f"The process that ran it was ended by {signal.Signals(-code).name}.{hint}"
        return f"The process that ran it ended with exit code {code} in the middle of the run."


class _Hearing(asyncio.Protocol):
    """The worker's end of the socket. `ended` is done when there is nothing more to hear."""

    def __init__(self, on_message: Callable[[protocol.Head, bytes], None]):
        self._messages = protocol.Messages()
        self._on_message = on_message
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._messages.feed(data)
        while message := self._messages.take():
            self._on_message(*message)

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set_result(None)


def end_strays() -> None:
    """Ends what the flows of a child that died have left behind: this process has adopted it."""
    for stray in psutil.Process().children():
        if stray.pid not in _known and stray.pid != zygote.pid:
            for each in (*stray.children(recursive=True), stray):
                kill_process(each)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray.pid, 0)
