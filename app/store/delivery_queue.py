"""A worker's calls to the store for webhook deliveries. Used by `app.worker.webhooks`.

Every method raises `StoreUnavailable` if the store does not answer, and may then be called again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.delivery import Try
from app.domain.errors import StoreUnavailable
from app.domain.execution import Execution
from app.domain.payload import readable, unpacks_beyond
from app.settings import Settings
from app.store import connection, records
from app.store.deliveries import write_try
from app.store.job import queue_key
from app.store.job_reader import RECORD_FIELDS
from app.store.registration import Registration
from app.store.steps import to_datetime, with_steps
from app.store.store_check import SLOTS, WORKERS
from app.store.worker_connection import BLOCKING_SECONDS, WorkerConnection

QUEUE = "webhooks"
"""The RQ queue of the deliveries."""

LEASE_SECONDS = 30.0
"""How long a delivery may be with a worker: twice as long as a try may take. No heartbeat extends
it, so that many tries cost nothing.
"""

MAX_OUTPUT_BYTES = 256 * 1024
"""Larger outputs are not sent."""

READ_TOGETHER = 16
"""Executions that are read in one round trip. Each may have outputs of `MAX_OUTPUT_BYTES`."""

TOO_LARGE = 1
"""The answer of `read_to_send.lua` in place of outputs that are too large."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A delivery that this worker is to try now. `token` names the try.

    `tries` is how often it was tried before, since somebody last asked for it. `event_at` and `at`
    are the times of the event and of this try, by the store's clock.
    """

    id: str
    token: str
    execution_id: str
    tenant: str
    url: str
    event: str
    event_number: int
    event_at: datetime
    tries: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Note:
    """How a try ended, for `note_tries.lua`, which explains the words for `how`."""

    taken: Taken
    how: str
    delay_seconds: float = 0.0
    tried: Try | None = None

    def arguments(self) -> list[Any]:
        tried, code = self.tried, self.tried.code if self.tried else None
        answered = f"{code // 100}xx" if code else "none"
        text = write_try(tried) if tried else ""
        delay = int(self.delay_seconds * 1_000_000)
        return [self.taken.id, self.taken.token, self.how, delay, answered, text]


@dataclass(frozen=True, slots=True)
class Found:
    """The execution of a delivery. Without its outputs if they are `too_large`."""

    execution: Execution
    too_large: bool = False


class DeliveryQueue:
    """What one worker process does with deliveries in the store. `worker` is its name there."""

    def __init__(self, settings: Settings, worker: str):
        self._worker = worker
        self._store = WorkerConnection(settings)
        self._lease = int(settings.lease * 1_000_000)
        self._max_events = settings.max_events

    async def wait_for_work(self) -> None:
        """Returns when the queue holds something, or after `BLOCKING_SECONDS`."""
        # Moving the head of the queue onto itself blocks until there is one, and removes nothing.
        key = queue_key(QUEUE)
        with connection.translated():
            await self._store.waiting.blmove(key, key, BLOCKING_SECONDS, "LEFT", "LEFT")

    async def take(self, count: int) -> list[Taken]:
        """Begins tries of up to `count` deliveries. If the reply is lost, their leases expire."""
        token = secrets.token_hex(8)
        lease = int(LEASE_SECONDS * 1_000_000)
        rows = await self._store.call("take_deliveries", [token, self._worker, count, lease])
        return [_taken(token, *row) for row in rows]

    async def read(self, taken: Sequence[Taken]) -> list[Found | None]:
        """The executions of up to `READ_TOGETHER` deliveries; None for one that is not there."""
        calls = [
            ("read_to_send", [one.execution_id, one.tenant, MAX_OUTPUT_BYTES, *RECORD_FIELDS])
            for one in taken
        ]
        try:
            with connection.translated():
                answers = await self._store.call_all(calls)
                for answer in answers:
                    if isinstance(answer, Exception):
                        raise answer
        except StoreUnavailable:
            if len(taken) == 1:
                raise
            # Perhaps they are too large for the link, together.
            return [found for one in taken for found in await self.read([one])]
        return [_found(one, answer) for one, answer in zip(taken, answers, strict=True)]

    async def note(self, notes: Sequence[Note]) -> list[str]:
        """Stores how tries ended. Returns `ok` for each, or `lost` if another try was begun since,
        or the delivery is gone.
        """
        arguments = [part for note in notes for part in note.arguments()]
        words = await self._store.call("note_tries", arguments)
        return [word.decode() for word in words]

    async def beat(self, registration: Registration, slots: str) -> None:
        """Records that this worker lives. `slots` is `used/all`."""
        arguments = [self._lease, f"{QUEUE}:{self._worker}", slots, self._max_events]
        with connection.translated():
            [answer] = await self._store.call_all([("beat", arguments)], registration.add_heartbeat)
            if isinstance(answer, Exception):
                raise answer

    async def leave(self) -> None:
        """Removes this worker from the store."""
        name = f"{QUEUE}:{self._worker}"
        with connection.translated():
            async with self._store.client.pipeline(transaction=False) as pipe:
                pipe.zrem(WORKERS, name)
                pipe.hdel(SLOTS, name)
                await pipe.execute()

    async def close(self) -> None:
        await self._store.close()


def _taken(token: str, *row: bytes) -> Taken:
    id, execution, tenant, url, event, number, event_at, tries, at = (
        value.decode(errors="replace") for value in row
    )
    return Taken(
        id=id,
        token=token,
        execution_id=execution,
        tenant=tenant,
        url=url,
        event=event,
        event_number=int(number),
        event_at=to_datetime(event_at),
        tries=int(tries),
        at=to_datetime(at),
    )


def _found(taken: Taken, answer: Any) -> Found | None:
    """Reads the answer of `read_to_send.lua`."""
    if not answer:
        return None
    values, outputs, steps, step_outputs = answer
    is_large = TOO_LARGE in (outputs, step_outputs) or _unpacks_to_much(
        [outputs or b"", *step_outputs[1::2]]
    )
    if is_large:
        outputs, step_outputs = b"{}", []
    record = {**dict(zip(RECORD_FIELDS, values, strict=True)), "outputs": outputs}
    execution = records.read_anyway(taken.execution_id, taken.tenant, record)
    if execution and steps:
        execution = with_steps(execution, _texts(steps), _texts(step_outputs))
    return Found(execution, is_large) if execution else None


def _unpacks_to_much(packed: Iterable[bytes]) -> bool:
    """Whether stored outputs have more than `MAX_OUTPUT_BYTES` together. Unpacks hardly more."""
    size_bytes = 0
    for part in packed:
        if unpacks_beyond(part, MAX_OUTPUT_BYTES):
            return True
        size_bytes += len(readable(part) or b"") if part[:1] == b"x" else len(part)
        if size_bytes > MAX_OUTPUT_BYTES:
            return True
    return False


def _texts(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {
        name.decode(errors="replace"): value
        for name, value in zip(flat[::2], flat[1::2], strict=True)
    }
