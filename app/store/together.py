"""Sends calls of concurrent requests to the store together, in one pipeline.

`ExecutionReader` uses it for small and quick calls. The caller that finds a connection free sends
all waiting calls, reads the replies, and passes the connection to the first caller that has come
meanwhile. So a single call is sent at once, by its own thread. Under load, calls gather while
replies are on their way, and need one write and few reads for all of them.

A call must be quick, because it holds up those beside it, and safe to repeat.
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
"""While one waits for replies, the other is free for the next call."""

MOST_CALLS = 64
"""The most calls in one pipeline."""

WAIT_SECONDS = 1.9
"""The longest wait for a reply, so that every request is answered within 2 s."""

LEAST_SECONDS = 0.4
"""A call with less time left than this is not sent any more: a store that works may need it."""

Command = tuple[Any, ...]


class _Call:
    """The commands of one caller, which are sent one after the other, and their replies."""

    __slots__ = ("answers", "commands", "error", "line", "until", "woken")

    def __init__(self, commands: Sequence[Command]):
        self.commands = commands
        self.until = monotonic() + WAIT_SECONDS
        self.answers: list[Any] = []  # with errors of single commands
        self.error: Exception | None = None  # an error of the connection
        self.line: _Line | None = None  # set: this caller must send the waiting calls
        self.woken: threading.Lock | None = None  # locked until the call has an answer or a line


class Together:
    """Safe to use from many threads or greenlets; not across a fork."""

    def __init__(self, pool: Any):
        self._lock = short_lock()
        self._waiting: deque[_Call] = deque()
        self._free = [_Line(pool) for _ in range(CONNECTIONS)]

    def execute(self, *commands: Command) -> list[Any]:
        """The replies, in order. A reply is an error if the store refused that command.

        Raises redis-py's errors of connections.
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
            # No timeout here: the caller that sends this call has one, and wakes it in any case.
            call.woken.acquire()
        if call.line:
            self._serve(call.line)
        if call.error:
            raise type(call.error)(*call.error.args) from call.error
        return call.answers

    def _serve(self, line: _Line) -> None:
        """Sends the waiting calls, with the caller's own, and passes the connection on."""
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
        """Fails these calls and all waiting ones, which need the same store."""
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
    """One connection, which one caller uses at a time."""

    def __init__(self, pool: Any):
        self._pool = pool
        self._connection: Any = None

    def exchange(self, calls: list[_Call]) -> None:
        """Fills in the replies. If the connection breaks, calls without replies are sent again."""
        began = monotonic()
        try:
            self._try(calls)
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            # Two timeouts would take longer than a request may.
            if monotonic() - began > CALL_TIMEOUT_SECONDS * 1.2:
                raise
            self._try([call for call in calls if len(call.answers) < len(call.commands)])

    def _try(self, calls: list[_Call]) -> None:
        complete = False
        try:
            connection = self._connection = self._connection or self._connected()
            packed = b"".join(pack_command(command) for call in calls for command in call.commands)
            connection.send_packed_command([packed], check_health=False)
            # The first call has waited longest.
            until = min(monotonic() + CALL_TIMEOUT_SECONDS, calls[0].until)
            for call in calls:
                answers = [_answer(connection, until) for _ in call.commands]
                call.answers = answers  # all of a call, or none: else it would be half repeated
            complete = True
        finally:
            # Unread replies would be taken for those of the next calls.
            if not complete and self._connection is not None:
                self._connection.disconnect()
                self._connection = None

    def _connected(self) -> Any:
        """A new connection. It repeats nothing by itself: `exchange` does that."""
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        connection.retry = Retry(NoBackoff(), 0)
        connection.connect()
        return connection


def _answer(connection: Any, until: float) -> Any:
    """The next reply; it is an error if the store refused the command."""
    try:
        return connection.read_response(timeout=max(0.01, until - monotonic()))
    except redis.ResponseError as error:
        return error


def _wake(call: _Call) -> None:
    if call.woken and call.woken.locked():
        call.woken.release()


def checked(answer: Any) -> Any:
    """Returns a reply, or raises it if it is an error."""
    if isinstance(answer, redis.RedisError):
        raise answer
    return answer


class Function:
    """One of the store's functions, called together with other calls.

    If the store does not have the library, it is loaded and the function is called again.
    """

    def __init__(self, together: Together, name: str):
        self._together, self._name, self._library = together, name, library()

    def __call__(self, args: Sequence[Any]) -> Any:
        """Its reply. Raises what redis-py raises."""
        command = functions.command(self._library, self._name, args)
        [answer] = self._together.execute(command)
        if functions.is_missing(answer):
            _, answer = self._together.execute(functions.loading(self._library), command)
        return checked(answer)
