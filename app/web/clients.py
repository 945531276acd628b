"""Tells a request that waits whether its client is still there, and when the process stops.

`app.web.worker` puts a `Client` into the environment of each request, as `app.client`. A view that
waits or streams asks it, and asks to be woken.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterator
from typing import Any

from gevent.monkey import get_original

_poll: Callable[[], Any] = get_original("select", "poll")
_CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL


class Clients:
    """The clients of one process whose requests wait."""

    def __init__(self) -> None:
        self.stopping = False
        self._waiting = dict[Client, Callable[[], None]]()

    @contextlib.contextmanager
    def waking(self, client: Client, wake: Callable[[], None]) -> Iterator[None]:
        self._waiting[client] = wake
        try:
            yield
        finally:
            del self._waiting[client]

    def check(self) -> None:
        """Wakes the requests whose clients have gone, with one call of the kernel for all."""
        by_number = {client.fileno(): wake for client, wake in self._waiting.items()}
        for number in _closed(by_number):
            by_number[number]()

    def stop(self) -> None:
        """Wakes all requests, since the process stops."""
        self.stopping = True
        for wake in list(self._waiting.values()):
            wake()


class Client:
    """The client of one request."""

    __slots__ = ("_clients", "fileno")

    def __init__(self, fileno: Callable[[], int], clients: Clients):
        self.fileno, self._clients = fileno, clients

    @property
    def stopping(self) -> bool:
        """Whether this process stops, so that the answer should be complete at once."""
        return self._clients.stopping

    def gone(self) -> bool:
        """Whether the client has closed its connection, or its sending side.

        The two look the same until something is sent. So send what there is: a client that still
        reads gets it.
        """
        return bool(_closed([self.fileno()]))

    def waking(self, wake: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Within it, `wake` is called soon after the client has gone or the process has begun to
        stop. It may be called more than once, and must return at once.
        """
        return self._clients.waking(self, wake)


def _closed(numbers: Any) -> list[int]:
    """Those of these file descriptors whose other side sends no more; a closed one is -1."""
    poll = _poll()
    for number in numbers:
        if number >= 0:
            poll.register(number, _CLOSED)
    return [number for number, _ in poll.poll(0)] + [number for number in numbers if number < 0]
