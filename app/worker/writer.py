"""Sends the writes of all attempts to the store, and repeats each until it is written.

`worker` runs one `ResultWriter`; each `attempt` awaits its `write` for checkpoints and its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import structlog

from app.domain.errors import StoreUnavailable
from app.store.attempt_store import AttemptStore
from app.store.connection import refuses_everybody
from app.store.worker_connection import LARGE_BYTES
from app.store.write import Write
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog

PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""The pauses before the next try of a write that the store refuses while it takes others. Together
about a minute, in which an operator may mend the cause. Tries are counted, not seconds, because an
outage in between is not this write's fault.
"""

LARGE_LANES = 2
"""Large writes sent at once. More would share a slow link until all of them took too long."""

MAX_ERROR_CHARS = 500
"""What is logged of an error: the rest may quote the data that was written."""

log = structlog.get_logger(__name__)


class WriteRefused(Exception):
    """The store took other writes, but not this one, for about a minute."""


@dataclass(slots=True, eq=False)
class PendingWrite:
    """A write on its way, and the future of its script's answer. `refused` is the last error."""

    write: Write
    answer: asyncio.Future[str]
    refused: str = ""
    refusals: int = 0


class ResultWriter:
    """Up to `limit` small writes share a round trip. Large ones go one by one, in their own lanes.

    During an outage, writes wait for as long as it takes. A write that the store refuses while it
    answers others is put aside and tried again later, so that it holds up no other.
    """

    def __init__(
        self, store: AttemptStore, outage: OutageLog, limit: int, on_release: Callable[[], None]
    ):
        self._store = store
        self._outage = outage
        self._limit = limit
        self._on_release = on_release
        self._small: asyncio.Queue[PendingWrite] = asyncio.Queue()
        self._large: asyncio.Queue[PendingWrite] = asyncio.Queue()

    async def write(self, write: Write) -> str:
        """Returns the script's answer, once it is written. Raises `WriteRefused`.

        An attempt's writes are in order if it awaits each before the next. Repeating a write that
        arrived is harmless: the scripts check the fencing token. Calls `on_release` after each
        `release`, since the reaper must learn of the new delay.
        """
        pending = PendingWrite(write, asyncio.get_running_loop().create_future())
        self._enqueue(pending)
        answer = await pending.answer
        if write.script == "release":
            self._on_release()
        return answer

    async def run(self) -> None:
        """Sends writes until it is cancelled."""
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._serve(self._small, self._limit))
            for _ in range(LARGE_LANES):
                lanes.create_task(self._serve(self._large, 1))

    def _enqueue(self, pending: PendingWrite) -> None:
        (self._large if pending.write.size_bytes > LARGE_BYTES else self._small).put_nowait(pending)

    async def _serve(self, queue: asyncio.Queue[PendingWrite], limit: int) -> NoReturn:
        """Runs one lane. After a failed batch, sends the first write alone: the store may close
        the connection because of a single write, and so fail all that were sent with it.
        """
        left: list[PendingWrite] = []
        at_once = limit
        while True:
            if not left:
                left.append(await queue.get())
            while len(left) < limit and not queue.empty():
                left.append(queue.get_nowait())
            sent = _together(left[:at_once])
            answers = await self._try(sent)
            if answers is None:
                at_once = 1
                if len(sent) == 1 and sent[0].refused:
                    self._put_aside(left.pop(0))
                continue
            left, at_once = left[len(sent) :], limit
            for pending, answer in zip(sent, answers, strict=True):
                self._answer(pending, answer)

    async def _try(self, sent: list[PendingWrite]) -> list[str] | None:
        """Returns the answers, or None if nothing was written as far as is known.

        If a write that was sent alone is to blame, because the store failed on it but answers other
        calls, it is marked as refused.
        """
        sent[0].refused = ""
        try:
            answers = await self._store.write([pending.write for pending in sent])
        except StoreUnavailable as error:
            if len(sent) == 1 and not refuses_everybody(error) and await self._store.answers():
                sent[0].refused = str(error.__cause__ or error)
            else:
                self._outage.refused("write", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)
            return None
        except Exception as error:  # an error of our own may cost this write, but not the lane
            log.exception("write_broke")
            sent[0].refused = repr(error)
            return None
        self._outage.done("write")
        return answers

    def _answer(self, pending: PendingWrite, answer: str) -> None:
        if answer.startswith("!"):
            pending.refused = answer
            self._put_aside(pending)
        elif not pending.answer.done():  # it is done already if the attempt was cancelled
            pending.answer.set_result(answer)

    def _put_aside(self, pending: PendingWrite) -> None:
        """Tries the write again after a pause that grows each time; gives up after the last one."""
        if pending.answer.done():
            return
        write, refusals = pending.write, pending.refusals
        error = pending.refused[:MAX_ERROR_CHARS]
        log.warning(
            "write_refused",
            execution_id=write.id,
            script=write.script,
            times=refusals + 1,
            error=error,
        )
        if refusals == len(PAUSES_SECONDS):
            pending.answer.set_exception(WriteRefused(error))
            return
        pending.refusals += 1
        asyncio.get_running_loop().call_later(PAUSES_SECONDS[refusals], self._enqueue, pending)


def _together(waiting: list[PendingWrite]) -> list[PendingWrite]:
    """Returns the first writes, up to `LARGE_BYTES` together, but at least one. On a slow link, a
    round trip of many nearly large ones would hold up all behind it.
    """
    size_bytes = 0
    for number, pending in enumerate(waiting):
        size_bytes += pending.write.size_bytes
        if number and size_bytes > LARGE_BYTES:
            return waiting[:number]
    return waiting
