"""The event loop of a stand-in server: a thread of its own, from `with` to its end.

`ModelServer` and `Receiver` are such servers: they say what a connection is answered.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Self

MAX_HEAD_BYTES = 2**20


class LoopServer:
    """Started by `with`. Listens on `port` of localhost; 0 takes a free one."""

    def __init__(self, port: int = 0):
        self.port = port
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(
                self._handle, "127.0.0.1", self.port, backlog=4096, limit=MAX_HEAD_BYTES
            )
        )
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection, and closes it."""
        raise NotImplementedError
