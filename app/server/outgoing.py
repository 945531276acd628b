"""An answer on its way out: what the client does not take at once is kept, so that nobody waits for it."""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any

WRITE_SECONDS = 5.0
"""Without any progress; then the connection is closed."""

SLOWEST_BYTES_PER_SECOND = 50 * 1024
"""A client that takes less, over its whole answer, is not waited for."""


class Outgoing:
    """Stands in for a client's socket while its answer is written; then `flush` sends what is kept."""

    def __init__(self, client: socket.socket):
        self._client = client
        self._kept = bytearray()
        self._sent_bytes = 0
        self._began_at = monotonic()

    @property
    def left_bytes(self) -> int:
        return len(self._kept) - self._sent_bytes

    @property
    def give_up_at(self) -> float:
        """When the client has been too slow, on `monotonic`, if it takes nothing from now on."""
        slowest = self._began_at + WRITE_SECONDS + len(self._kept) / SLOWEST_BYTES_PER_SECOND
        return min(monotonic() + WRITE_SECONDS, slowest)

    def sendall(self, data: Any) -> None:
        """Never waits. Raises `OSError` where the client has gone."""
        sent = 0 if self.left_bytes else self._send(data)
        self._kept += memoryview(data)[sent:]

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> None:
        file.seek(offset)
        self.sendall(file.read(count))

    def flush(self) -> bool:
        """Sends what the client takes now. True: nothing is left. Raises `OSError` where it has gone."""
        with memoryview(self._kept) as kept:
            self._sent_bytes += self._send(kept[self._sent_bytes :])
        return not self.left_bytes

    def _send(self, data: Any) -> int:
        try:
            return self._client.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
