"""Calls of concurrent requests to the store, sent together.

Whoever finds a connection free sends what all others wait for as well, reads the answers, and hands
the connection on to the first who came meanwhile. So a call that is alone is sent at once, by its
own caller; under load, calls gather while answers are on their way, and cost one write and few
reads for all.

For calls that are quick and small, and may be repeated: one that is not would hold up those beside
it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.process.aside import short_lock
from app.store import functions
from app.store.connection import CALL_TIMEOUT_SECONDS, NotSent
from app.store.scripts import library

CONNECTIONS = 2
"""While the answers of one are awaited, the other is free for who comes next."""

MOST_CALLS = 64
"""In one pipeline."""

WAIT_SECONDS = 1.9
"""For an answer, whoever brings it: a request is answered within 2 s whatever the store does."""

LEAST_SECONDS = 0.4
"""A call with less time left than this is not sent any more: a store that works may need it."""

Command = tuple[Any, ...]


class _Call:
    """Commands that are sent one behind the other, and their answers."""

    __slots__ = ("answers", "commands", "error", "line", "until", "woken")

    def __init__(self, commands: Sequence[Command]):
        self.commands = commands
        self.until = monotonic() + WAIT_SECONDS
        self.answers: list[Any] = []  # errors of single commands among them
        self.error: Exception | None = None  # of the connection
        self.line: _Line | None = None  # handed over: the caller is to send what waits
        self.woken: threading.Lock | None = None  # held until there is something to see


class Together:
    """Safe to use from many threads or greenlets; not across a fork."""

    def __init__(self, pool: Any):
        self._lock = short_lock()
        self._waiting: deque[_Call] = deque()
        self._free = [_Line(pool) for _ in range(CONNECTIONS)]

    def execute(self, *commands: Command) -> list[Any]:
        """The answers, an error among them where a command was refused. Raises redis-py's errors of
        connections.
        """
        call = _Call(commands)
        with self._lock:
            self._waiting.append(call)
            if self._free:
                call.line = self._free.pop()
            else:
                call.woken = threading.Lock()
                call.woken.acquire()
        if call.woken:
            # without a limit of its own: whoever sends it, or fails, is held to `until`
            call.woken.acquire()
        if call.line:
            self._serve(call.line)
        if call.error:
            raise type(call.error)(*call.error.args) from call.error
        return call.answers

    def _serve(self, line: _Line) -> None:
        """Sends what waits, the caller's own call among it, and hands the connection on."""
        calls = self._take()
        try:
            if calls:
                line.exchange(calls)
        except BaseException as error:
            self._fail(calls, error)
            if not isinstance(error, (redis.RedisError, OSError)):
                raise
        finally:
            self._hand_on(line)
            for call in calls:
                _wake(call)

    def _take(self) -> list[_Call]:
        """Takes the calls to send next. Fails those that have waited too long, each alone."""
        latest = monotonic() + LEAST_SECONDS
        with self._lock:
            late = []
            # The first has waited longest, so behind one that is in time all are.
            while self._waiting and self._waiting[0].until < latest:
                late.append(self._waiting.popleft())
            calls = [self._waiting.popleft() for _ in range(min(MOST_CALLS, len(self._waiting)))]
        for call in late:
            call.error = NotSent("Too many requests are waiting for the store. Try again later.")
            _wake(call)
        return calls

    def _fail(self, calls: list[_Call], error: BaseException) -> None:
        """Also those who wait: they ask the same store, and have waited for as long."""
        with self._lock:
            calls += self._waiting
            self._waiting.clear()
        for call in calls:
            if not call.answers:
                call.error = (
                    error
                    if isinstance(error, redis.RedisError)
                    else redis.ConnectionError(str(error))
                )

    def _hand_on(self, line: _Line) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].line = line
                _wake(self._waiting[0])
            else:
                self._free.append(line)


class _Line:
    """One connection, in the hands of one caller at a time."""

    def __init__(self, pool: Any):
        self._pool = pool
        self._connection: Any = None

    def exchange(self, calls: list[_Call]) -> None:
        """Fills in the answers. Where the connection breaks, what was not answered is sent once
        more.
        """
        began = monotonic()
        try:
            self._try(calls)
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            if monotonic() - began > CALL_TIMEOUT_SECONDS * 1.2:
                raise
            self._try([call for call in calls if len(call.answers) < len(call.commands)])

    def _try(self, calls: list[_Call]) -> None:
        whole = False
        try:
            connection = self._connection = self._connection or self._connected()
            packed = b"".join(pack_command(command) for call in calls for command in call.commands)
            connection.send_packed_command([packed], check_health=False)
            until = min(
                monotonic() + CALL_TIMEOUT_SECONDS, calls[0].until
            )  # the first has waited for longest
            for call in calls:
                answers = [_answer(connection, until) for _ in call.commands]
                call.answers = answers  # all of them, or none
            whole = True
        finally:
            if not whole and self._connection is not None:
                self._connection.disconnect()
                self._connection = None

    def _connected(self) -> Any:
        """A new connection, which is not repeated by itself: `exchange` does so."""
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        connection.retry = Retry(NoBackoff(), 0)
        connection.connect()
        return connection


def _answer(connection: Any, until: float) -> Any:
    """Also the error, where the store refuses the one command."""
    try:
        return connection.read_response(timeout=max(0.01, until - monotonic()))
    except redis.ResponseError as error:
        return error


def _wake(call: _Call) -> None:
    if call.woken and call.woken.locked():
        call.woken.release()


def checked(answer: Any) -> Any:
    """The answer of one command, which is raised if it is an error."""
    if isinstance(answer, redis.RedisError):
        raise answer
    return answer


class Function:
    """One of the store's functions. A store that does not have the library is given it, and called
    again.
    """

    def __init__(self, together: Together, name: str):
        self._together, self._name, self._library = together, name, library()

    def __call__(self, args: Sequence[Any]) -> Any:
        """Its answer. Raises what redis-py raises."""
        command = functions.command(self._library, self._name, args)
        [answer] = self._together.execute(command)
        if functions.is_missing(answer):
            _, answer = self._together.execute(functions.loading(self._library), command)
        return checked(answer)
