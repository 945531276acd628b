"""Registers a worker with RQ, so that RQ's tools show it. `worker` makes one for each worker."""

from __future__ import annotations

import asyncio
from typing import Any

import redis
from rq import Queue
from rq.worker import BaseWorker

from app.domain.version import VERSION
from app.store import connection
from app.store.job import ExecutionJob
from app.store.scripts import library


class Registration(BaseWorker):
    """An RQ worker that takes no job. `ExecutionWorker` does the work, and replaces RQ's parts:

    - the loop that pops one job and forks: a script claims several at once
    - the bookkeeping for each job: the scripts keep the record
    - the clean-up of registries: the reaper requeues what was lost
    - the commands: RQ's stop command kills a process without checking which job it runs

    The methods raise `StoreUnavailable`, and `RuntimeError` if the machine has no room for another
    thread.
    """

    def __init__(self, client: redis.Redis, queue: str, process: str):
        """`process` is the same for all workers of one process, as they all die together: see
        `reap.lua`.
        """
        queues = [Queue(queue, connection=client, job_class=ExecutionJob)]
        super().__init__(queues, name=f"{process}-{queue}", connection=client)

    async def begin(self) -> None:
        """Registers the worker. May be called again after an error."""
        try:
            with connection.translated():
                await asyncio.to_thread(self._introduce)  # RQ's code blocks
        except ValueError:
            # RQ has a worker of this name. The name is random, so it is this one: an earlier try
            # succeeded, and only its reply was lost.
            return

    def _introduce(self) -> None:
        self.register_birth()  # type: ignore[no-untyped-call]  # RQ's
        # Beside RQ's own `version`. The digest tells apart builds of one version.
        build = library().name.rpartition("_")[2]
        self.connection.hset(self.key, "service_version", f"{VERSION}-{build}")

    def add_heartbeat(self, pipe: Any) -> None:
        """Adds RQ's heartbeat to a pipeline."""
        self.heartbeat(pipeline=pipe)

    async def end(self) -> None:
        with connection.translated():
            await asyncio.to_thread(self.register_death)  # RQ's code blocks
