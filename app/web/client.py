"""Tells a view that waits or streams when its answer is no longer wanted: `environ["app.client"]`.

`app.web.worker` makes a `Client` for each request, and looks twice a second at those that wait.
"""

from __future__ import annotations

import io
import select
from collections.abc import Callable, Iterable
from typing import Any

from gevent import monkey

from app.web.connection import Connection

CLIENT = "app.client"

_ENDED = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_poll = monkey.get_original("select", "poll")


class Client:
    """The client of one request, for the application.

    `stopping` is True once this process has been asked to stop.
    """

    def __init__(self, connection: Connection, stopping: Callable[[], bool], body: io.BytesIO):
        self._connection = connection
        self._stopping = stopping
        self._body = body

    @property
    def stopping(self) -> bool:
        return self._stopping()

    def gone(self) -> bool:
        """Whether the client has closed its side of the connection, as far as this process knows.

        It is noticed within a second while somebody waits (`wake_at_end`). A client that has closed
        its sending side only looks the same until something is sent, and it may still read. So send
        what there is.
        """
        return self._connection.gone

    def wake_at_end(self, wake: Callable[[], None]) -> None:
        """Has `wake` called once the client has gone, or this process is asked to stop. It may be
        called more than once, and must return at once.
        """
        self._connection.wake = wake
        if self.stopping or self.gone():
            wake()

    def forget_body(self) -> None:
        """Gives the memory of the request's body back. To be called before a long wait."""
        self._body.truncate(0)
        self._connection.release()

    def begin_stream(self) -> None:
        """Called before an answer that goes on until something ends it."""
        self._connection.begin_stream()


def notice_gone(connections: Iterable[Connection]) -> None:
    """Wakes those who wait for an answer to a client that has gone. One call for all of them."""
    waiting = {
        connection.fileno(): connection for connection in connections if connection.wake is not None
    }
    if not waiting:
        return
    poll: Any = _poll()
    for number in waiting:
        poll.register(number, _ENDED)
    for number, _ in poll.poll(0):
        connection = waiting[number]
        connection.gone = True
        wake_up(connection)


def wake_up(connection: Connection) -> None:
    if connection.wake is not None:
        connection.wake()
